"""Bytes on their way to the disk: written by a thread of their own, while the next ones are made.

What is written will not be read again soon, and to fill the page cache with it costs a core several times what writing
past it does (O_DIRECT, `man 2 open`; `benchmarks/bytes.py`). So whole blocks go straight to the disk where the file
system can do that, and the edges of a chunk through the cache.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from porter.behind import Behind
from porter.source import CHUNK_BYTES

BLOCK = 4096  # what memory, offset and length of a direct write are multiples of, on every disk that is known
LEAST_DIRECT = 2**18  # less than that is not worth the way to the disk


class Disk:
    """A file that is written behind the back of the thread that makes the bytes; made where it is not there.

    What is given to `write` must stay as it is until the next call; what the disk refuses is raised by that or a later
    one, as OSError. Nothing is durable before `finish`.
    """

    def __init__(self, path: Path) -> None:
        self._cached = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._direct = _open_direct(path)
        self._block = np.frombuffer(mmap.mmap(-1, CHUNK_BYTES), np.uint8)  # memory of its own begins with a page
        self._writing = Behind()

    def write(self, data: memoryview, offset: int) -> None:
        """Begins to put `data` at `offset`, once what was given before is there."""
        self._writing.do(self._put, data, offset)

    def settle(self) -> None:
        """Waits until what was given is there for every reader; a power cut may still take it."""
        self._writing.settle()

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        """What stands there, chunk by chunk; less where the file ends before."""
        self.settle()
        while length:
            data = os.pread(self._cached, min(length, CHUNK_BYTES), offset)
            if not data:
                return
            yield data
            offset, length = offset + len(data), length - len(data)

    def finish(self, size: int) -> None:
        """Cuts the file to its size; then all of it is on the disk."""
        self.settle()
        os.ftruncate(self._cached, size)
        os.fsync(self._cached)

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *error: object) -> None:
        self._writing.end()
        os.close(self._cached)
        if self._direct is not None:
            os.close(self._direct)

    def _put(self, data: memoryview, offset: int) -> None:
        """Whole blocks go directly; what does not, and what stands around them, through the cache."""
        done = 0
        if self._direct is not None and len(data) >= LEAST_DIRECT:
            done = -offset % BLOCK
            self._put_cached(data[:done], offset)
            done += self._put_direct(self._direct, data[done:], offset + done)
        self._put_cached(data[done:], offset + done)

    def _put_direct(self, direct: int, data: memoryview, offset: int) -> int:
        """How many bytes the disk took of the whole blocks. One that wants them otherwise is not asked again."""
        done, whole = 0, len(data) // BLOCK * BLOCK
        while done < whole:
            block = self._block[: min(whole - done, len(self._block))]
            np.copyto(block, np.frombuffer(data[done : done + len(block)], np.uint8))
            try:
                count = os.pwrite(direct, block.data, offset + done)
            except OSError:  # what is really wrong, the cached way says
                os.close(direct)
                self._direct = None
                return done
            done += count
            if count < len(block):  # nearly full
                return done
        return done

    def _put_cached(self, data: memoryview, offset: int) -> None:
        while len(data):
            count = os.pwrite(self._cached, data, offset)
            data, offset = data[count:], offset + count


def _open_direct(path: Path) -> int | None:
    """None where the file system, or the operating system, has no direct writing."""
    flag = getattr(os, "O_DIRECT", 0)
    try:
        return os.open(path, os.O_WRONLY | flag) if flag else None
    except OSError:
        return None
