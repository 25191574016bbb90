"""Weights that are stored as a matrix of 8-bit codes, one to a number, with one scale for each block of the matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from porter.checkpoint import Read
from porter.formats.packed import Codes
from porter.quantize import Quantization


@dataclass(frozen=True, slots=True)
class BlockWeight:
    """Codes of int8 or FP8; blocks of `block` rows and columns are counted from 0, edge blocks are smaller.

    Of a whole row or a whole matrix in one block, the block is as large as that.
    """

    name: str
    scale: str
    shape: tuple[int, ...]
    block: tuple[int, int]
    zero: str | None = None
    form: Quantization | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.name, self.scale) if self.zero is None else (self.name, self.scale, self.zero)

    @property
    def tile(self) -> int:
        return self.block[0]

    def codes(self, read: Read, start: int, stop: int) -> Codes:
        scales = self._by_row(read, self.scale, start, stop).astype(np.float32)
        zeros = None if self.zero is None else self._by_row(read, self.zero, start, stop)
        return Codes(read(self.name, start, stop), scales, zeros, self.block[1])

    def _by_row(self, read: Read, name: str, start: int, stop: int) -> np.ndarray:
        """What is stored of each block, for each row: [rows, blocks in a row]."""
        rows, columns = self.block
        stored = read(name, start // rows, -(-stop // rows)).reshape(-1, -(-self.shape[1] // columns))
        return np.repeat(stored, rows, axis=0)[start % rows :][: stop - start] if rows > 1 else stored


def blocks(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    """How many blocks cover a matrix, along each side."""
    return tuple(-(-side // size) for side, size in zip(shape, block, strict=True))
