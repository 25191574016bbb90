"""A checkpoint's tensors as the network means them, read a bounded number of bytes at a time, digested on the way."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator

import numpy as np

from porter.cast import cast
from porter.checkpoint import Checkpoint
from porter.fp8 import Fp8Blocks

FLOATS = {"F64", "F32", "F16", "BF16"}
CHUNK_BYTES = 8 * 2**20  # how much of a weight is held at once: several of these pass through memory side by side

Read = Callable[[str, int, int], np.ndarray]


class Ledger:
    """Reads rows of a checkpoint's tensors and keeps the SHA-256 of every range that was read.

    Reads that follow one another in a tensor are one range. A ledger belongs to one thread.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._open: dict[str, tuple[int, int, hashlib._Hash]] = {}  # tensor → first row, row after the last, digest
        self._closed: dict[str, str] = {}

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start…stop in the dtype that they are stored in."""
        rows = self._checkpoint.read(name, start, stop)
        first, after, digest = self._open.get(name, (start, start, hashlib.sha256()))
        if after != start:
            self._close(name)
            first, digest = start, hashlib.sha256()
        digest.update(rows.reshape(-1).view(np.uint8).data)
        self._open[name] = (first, stop, digest)
        return rows

    def ranges(self) -> dict[str, str]:
        """The digests so far, by tensor, or `tensor[first:after]` for rows of one; what follows is a new range."""
        for name in list(self._open):
            self._close(name)
        closed, self._closed = self._closed, {}
        return closed

    def _close(self, name: str) -> None:
        first, after, digest = self._open.pop(name)
        shape = self._checkpoint.tensors[name].shape
        whole = not shape or (first, after) == (0, shape[0])
        self._closed[name if whole else f"{name}[{first}:{after}]"] = digest.hexdigest()


class Source:
    """A checkpoint's tensors as the network means them: FP8 blocks and their scales read as one tensor."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.fp8 = Fp8Blocks.of(checkpoint)

    def names(self) -> set[str]:
        """The tensors there are, scales left out."""
        return set(self.checkpoint.tensors) - (self.fp8.scales if self.fp8 else set())

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.checkpoint.tensors[name].shape

    def readable(self, name: str) -> bool:
        """Whether a tensor holds the numbers it means."""
        return self.checkpoint.tensors[name].dtype in FLOATS or (self.fp8 is not None and name in self.fp8.weights)

    def rows(self, read: Read, name: str, start: int, stop: int, dtype: np.dtype) -> Iterator[np.ndarray]:
        """Rows start…stop of a tensor at `dtype`, a bounded number of bytes at a time.

        Raises FamilyError when a value does not fit the dtype.
        """
        shape = self.shape(name)
        row = max(1, math.prod(shape[1:]) * dtype.itemsize)
        step = max(1, CHUNK_BYTES // row)
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            if self.fp8 and name in self.fp8.weights:
                yield cast(self.fp8.decode(name, begin, end), dtype, name)
            else:
                yield cast(read(name, begin, end), dtype, name)
