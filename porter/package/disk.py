"""Bytes on their way to the disk: written by a thread of their own, while the next ones are made."""

from __future__ import annotations

import os
from collections.abc import Iterator

from porter.behind import Behind
from porter.source import CHUNK_BYTES

CALL_BYTES = 2**18  # to one system call: they are still in the core's cache when the system copies them
FLUSH_BYTES = 2**27  # after which the disk begins, so that at the end it has little left to do


class Disk:
    """An open file that is written behind the back of the thread that makes the bytes.

    What is given to `write` must stay as it is until the next call; what the disk refuses is raised by that or a later
    one, as OSError. Nothing is durable before `finish`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unflushed = 0
        self._writing, self._flushing = Behind(), Behind()

    def write(self, data: memoryview, offset: int) -> None:
        """Begins to put `data` at `offset`, once what was given before is there."""
        self._writing.do(self._put, data, offset)
        self._unflushed += len(data)
        if self._unflushed >= FLUSH_BYTES and not self._flushing.busy():
            self._flushing.do(os.fdatasync, self._descriptor)  # raises what the last one met: no later fsync tells it
            self._unflushed = 0

    def settle(self) -> None:
        """Waits until what was given is there for every reader; a power cut may still take it."""
        self._writing.settle()

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        """What stands there, chunk by chunk; less where the file ends before."""
        self.settle()
        while length:
            data = os.pread(self._descriptor, min(length, CHUNK_BYTES), offset)
            if not data:
                return
            yield data
            offset, length = offset + len(data), length - len(data)

    def finish(self, size: int) -> None:
        """Cuts the file to its size; then all of it is on the disk."""
        self.settle()
        self._flushing.settle()
        os.ftruncate(self._descriptor, size)
        os.fsync(self._descriptor)

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *error: object) -> None:
        self._writing.end()
        self._flushing.end()

    def _put(self, data: memoryview, offset: int) -> None:
        while len(data):
            count = os.pwrite(self._descriptor, data[:CALL_BYTES], offset)
            data, offset = data[count:], offset + count
