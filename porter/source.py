"""A checkpoint's tensors as the network means them, read a bounded number of bytes at a time, digested on the way."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np

from porter.behind import Behind
from porter.cast import cast
from porter.checkpoint import Checkpoint, Read
from porter.formats import Codes, decode, format_of
from porter.quantize import Quantization

FLOATS = {"F64", "F32", "F16", "BF16"}
CHUNK_BYTES = 4 * 2**20  # how much of a weight is held at once: several of these pass through memory side by side


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

    def recorded(self) -> Iterator[tuple[str, float]]:
        """What activations reached while the original ran, where the checkpoint keeps it: scale's name, peak."""
        for name, code in self.quantized.recorded.items():
            yield name, float(np.abs(self.checkpoint.read(name).astype(np.float64)).max(initial=0)) * code

    def form(self, name: str) -> Quantization | None:
        """How the codes of a tensor are laid out; None where it is stored as floats, or otherwise than that can say."""
        packed = self.quantized.weights.get(name)
        return None if packed is None else packed.form

    def rows(self, read: Read, name: str, start: int, stop: int, dtype: np.dtype) -> Iterator[np.ndarray]:
        """Rows start…stop of a tensor at `dtype`, a bounded number of bytes at a time.

        Raises FamilyError when a value does not fit the dtype.
        """
        if name in self.quantized.weights:
            for codes in self.codes(read, name, start, stop, dtype.itemsize):
                yield decode(codes, dtype, name)
            return
        step = self._step(name, dtype.itemsize)
        for begin in range(start, stop, step):
            yield cast(read(name, begin, min(begin + step, stop)), dtype, name)

    def codes(self, read: Read, name: str, start: int, stop: int, itemsize: int) -> Iterator[Codes]:
        """The same of a tensor that is stored quantized, as it is stored; `itemsize` is what becomes of a number."""
        packed, step = self.quantized.weights[name], self._step(name, itemsize)
        step = step // packed.tile * packed.tile or step
        begin = start
        while begin < stop:
            end = min(begin - begin % packed.tile + step if step >= packed.tile else begin + step, stop)
            yield packed.codes(read, begin, end)
            begin = end

    def _step(self, name: str, itemsize: int) -> int:
        """How many rows make a chunk."""
        return max(1, CHUNK_BYTES // max(1, math.prod(self.shape(name)[1:]) * itemsize))
