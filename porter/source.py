"""A checkpoint's tensors as the network means them, read a bounded number of bytes at a time, digested on the way."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np

from porter.behind import Behind
from porter.cast import cast
from porter.checkpoint import Checkpoint, Read
from porter.formats import decode, format_of
from porter.quantize import Quantization

FLOATS = {"F64", "F32", "F16", "BF16"}
CHUNK_BYTES = 8 * 2**20  # how much of a weight is held at once: several of these pass through memory side by side


class Ledger:
    """Reads rows of a checkpoint's tensors and keeps the SHA-256 of every range that was read.

    Reads that follow one another in a tensor are one range; a tensor that is read by columns is digested as a whole.
    A ledger belongs to one thread; with one `behind` it, that takes the digests, and what is read cannot be written to.
    """

    def __init__(self, checkpoint: Checkpoint, behind: Behind | None = None) -> None:
        self._checkpoint, self._behind = checkpoint, behind
        self._open: dict[str, tuple[int, int, hashlib._Hash]] = {}  # tensor → first row, row after the last, digest
        self._closed: dict[str, str] = {}
        self._wholes: dict[str, str] = {}  # of what is read by columns: taken once

    def read(self, name: str, start: int, stop: int, axis: int = 0) -> np.ndarray:
        """Rows start…stop in the dtype that they are stored in; along axis 1, those columns of all rows."""
        if axis:
            if name not in self._wholes:
                self._wholes[name] = self._digest(name)
            self._closed[name] = self._wholes[name]
            return self._checkpoint.read(name, start, stop, axis)
        rows = self._checkpoint.read(name, start, stop)
        first, after, digest = self._open.get(name, (start, start, hashlib.sha256()))
        if after != start:
            self._close(name)
            first, digest = start, hashlib.sha256()
        data = rows.reshape(-1).view(np.uint8).data
        if self._behind is None:
            digest.update(data)
        else:
            rows.flags.writeable = False  # it is read on, and must stay as it is until it is digested
            self._behind.do(digest.update, data)
        self._open[name] = (first, stop, digest)
        return rows

    def ranges(self) -> dict[str, str]:
        """The digests so far, by tensor, or `tensor[first:after]` for rows of one; what follows is a new range."""
        for name in list(self._open):
            self._close(name)
        closed, self._closed = self._closed, {}
        return closed

    def _digest(self, name: str) -> str:
        info, digest = self._checkpoint.tensors[name], hashlib.sha256()
        step = max(1, CHUNK_BYTES * info.shape[0] // max(1, info.nbytes))
        for start in range(0, info.shape[0], step):
            digest.update(self._checkpoint.read(name, start, start + step).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def _close(self, name: str) -> None:
        if self._behind is not None:
            self._behind.settle()
        first, after, digest = self._open.pop(name)
        shape = self._checkpoint.tensors[name].shape
        whole = not shape or (first, after) == (0, shape[0])
        self._closed[name if whole else f"{name}[{first}:{after}]"] = digest.hexdigest()


class Source:
    """A checkpoint's tensors as the network means them: codes and their scales read as one tensor of numbers."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.quantized = format_of(checkpoint)

    def names(self) -> set[str]:
        """The tensors there are: weights by their own names, whatever they are stored as."""
        return (set(self.checkpoint.tensors) - self.quantized.parts()) | set(self.quantized.weights)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        packed = self.quantized.weights.get(name)
        return self.checkpoint.tensors[name].shape if packed is None else packed.shape

    def readable(self, name: str) -> bool:
        """Whether a tensor holds the numbers it means."""
        return name in self.quantized.weights or self.checkpoint.tensors[name].dtype in FLOATS

    def idle(self, name: str) -> str | None:
        """Why a tensor that no parameter asks for can be left out; None where it must not be."""
        reason = self.quantized.idle_zeros.get(name)
        if reason is not None and self.checkpoint.read(name).any():
            return None
        return reason or self.quantized.idle.get(name)

    def rows(self, read: Read, name: str, start: int, stop: int, dtype: np.dtype) -> Iterator[np.ndarray]:
        """Rows start…stop of a tensor at `dtype`, a bounded number of bytes at a time.

        Raises FamilyError when a value does not fit the dtype.
        """
        packed = self.quantized.weights.get(name)
        for begin, end in self._strides(name, start, stop, dtype.itemsize):
            if packed is None:
                yield cast(read(name, begin, end), dtype, name)
            else:
                yield decode(packed.codes(read, begin, end), dtype, name)

    def coded(
        self, read: Read, name: str, start: int, stop: int, form: Quantization
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Rows start…stop of a tensor as `form` stores them, a bounded number of bytes at a time: the checkpoint's own
        codes where they are in that very form, else the codes nearest to its numbers.

        Raises FamilyError where a number has no code.
        """
        packed, wide = self.quantized.weights.get(name), np.dtype(np.float32)
        for begin, end in self._strides(name, start, stop, wide.itemsize):
            if packed is None:
                yield form.encode(cast(read(name, begin, end), wide, name), name)
                continue
            codes = packed.codes(read, begin, end)
            same = packed.form == (form.bits, form.block, form.symmetric)
            own = form.adopt(codes.values, codes.scales, codes.zeros) if same else None
            yield own or form.encode(decode(codes, wide, name), name)

    def _strides(self, name: str, start: int, stop: int, itemsize: int) -> Iterator[tuple[int, int]]:
        """First row and the one after the last of each chunk of at most CHUNK_BYTES, if a row is not more than that."""
        packed = self.quantized.weights.get(name)
        tile = 1 if packed is None else packed.tile
        step = max(1, CHUNK_BYTES // max(1, math.prod(self.shape(name)[1:]) * itemsize))
        step = step // tile * tile or step
        while start < stop:
            end = min(start - start % tile + step if step >= tile else start + step, stop)
            yield start, end
            start = end
