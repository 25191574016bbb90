"""Files made of a verdict, for people and for CI. Each reads the document of `porter verify --json` and nothing else:
one that was kept can be told again. A form is known by the suffix of its file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from porter.errors import ParityError
from porter.package.files import replace_file
from porter.reports.document import to_json
from porter.reports.html import to_html
from porter.reports.junit import to_junit
from porter.reports.markdown import to_markdown, workflow_commands
from porter.reports.sarif import to_sarif

Document = Mapping[str, Any]
FORMS: dict[str, Callable[[Document], bytes]] = {
    ".json": to_json,
    ".xml": to_junit,
    ".sarif": to_sarif,
    ".md": to_markdown,
    ".html": to_html,
}


def check_files(files: Sequence[Path], untouched: Sequence[Path]) -> None:
    """Raises ParityError for a file that could not be written later: asked before the work, which may take an hour.

    Nothing is written into the folders `untouched`: what is digested there stays as it is.
    """
    for file in files:
        if file.suffix not in FORMS:
            raise ParityError(
                f"no form of report is called '{file.suffix or file.name}' ({file})",
                f"name the file by one of {', '.join(FORMS)}",
            )
        if file.is_dir():
            raise ParityError(f"the report {file} is a folder", "name a file in it")
        for folder in untouched:
            if folder.resolve() in file.resolve().parents:
                raise ParityError(f"the report {file} lies in {folder}", "that folder stays as it is: take another")
        _try(file)


def _try(file: Path) -> None:
    """A file beside it tells what no question about rights does: full disks, disks that are only read."""
    beside = file.with_name(f".{file.name}.new")  # what `replace_file` writes first
    try:
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise _unwritten(file, error) from error


def write_files(files: Sequence[Path], document: Document) -> None:
    """Each in its form, whole or not at all. Raises ParityError where the disk does not take it."""
    for file in files:
        try:
            replace_file(file.parent, file.name, FORMS[file.suffix](document))
        except OSError as error:
            raise _unwritten(file, error) from error


def annotations_for(files: Sequence[Path], document: Document) -> list[str]:
    """Workflow commands that put what did not pass beside a job's log: where GitHub runs it and its summary, the
    Markdown, is asked for.
    """
    wanted = os.environ.get("GITHUB_ACTIONS") == "true" and any(file.suffix == ".md" for file in files)
    return workflow_commands(document) if wanted else []


def _unwritten(file: Path, error: OSError) -> ParityError:
    reason = (error.strerror or str(error)).lower()
    return ParityError(f"the report {file} cannot be written: {reason}", "name a file in a folder that you can write")
