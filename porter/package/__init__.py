"""Writing a port folder: planned first, written beside its final name where a journal lets it go on after any
interruption, renamed once, the manifest last.

`plan` says which byte of which weight lies where; `stream` writes one planned file; `execute` runs the files side by
side; `folder` makes the folder whole or leaves it resumable.
"""
