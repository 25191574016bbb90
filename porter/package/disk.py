"""Bytes on their way to the disk: written by a thread of their own, while the next ones are made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from porter.source import CHUNK_BYTES

CALL_BYTES = 2**18  # to one system call: they are still in the core's cache when the system copies them
FLUSH_BYTES = 2**27  # after which the disk begins, so that at the end it has little left to do


class Disk:
    """An open file that is written behind the back of the thread that makes the bytes.

    What is given to `write` must stay as it is until the next call; whatever the disk refuses is raised then, or by
    `finish`. Nothing is durable before `finish`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unflushed = 0
        self._threads = ThreadPoolExecutor(2)  # one writes, one waits for the disk
        self._writing: Future[None] = _nothing()
        self._flushing: Future[None] = _nothing()

    def write(self, data: memoryview, offset: int) -> None:
        """Begins to put `data` at `offset`, once what was given before is there."""
        self._writing.result()
        self._writing = self._threads.submit(self._put, data, offset)
        self._unflushed += len(data)
        if self._unflushed >= FLUSH_BYTES and self._flushing.done():
            self._flushing.result()  # an error of the disk is told once, and never again by a later fsync
            self._flushing = self._threads.submit(os.fdatasync, self._descriptor)
            self._unflushed = 0

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        """What stands there, chunk by chunk; less where the file ends before."""
        self._writing.result()
        while length:
            data = os.pread(self._descriptor, min(length, CHUNK_BYTES), offset)
            if not data:
                return
            yield data
            offset, length = offset + len(data), length - len(data)

    def finish(self, size: int) -> None:
        """Cuts the file to its size; then all of it is on the disk."""
        self._writing.result()
        self._flushing.result()
        os.ftruncate(self._descriptor, size)
        os.fsync(self._descriptor)

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown()

    def _put(self, data: memoryview, offset: int) -> None:
        while len(data):
            count = os.pwrite(self._descriptor, data[:CALL_BYTES], offset)
            data, offset = data[count:], offset + count


def _nothing() -> Future[None]:
    """Something that is done already."""
    done: Future[None] = Future()
    done.set_result(None)
    return done
