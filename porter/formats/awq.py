"""AWQ as AutoAWQ's "gemm" version stores it: int4 codes in words of 32 bits, the matrix lying on its side.

For a weight [N, K]: qweight [K, N / 8], qzeros [G, N / 8], scales [G, N]. A word holds eight neighbours along N, from
the lowest bits the even ones and then the odd ones. weight[n, k] = scales[g, n] * (q[k, n] - z[g, n]), g = k // group.
Source: AutoAWQ's packing_utils.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter.checkpoint import Checkpoint, Read
from porter.formats.packed import Codes, Quantized
from porter.formats.stored import FLOATS, WORDS, choice, first, group_size, modules, tensor, title
from porter.quantize import Quantization

ENDS = (".qweight", ".qzeros", ".scales")
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which of eight neighbours stands in which four bits of a word, from the lowest


@dataclass(frozen=True, slots=True)
class AwqWeight:
    """A weight that is stored packed and on its side: its rows are columns of what is stored."""

    module: str
    shape: tuple[int, ...]
    group: int
    form: Quantization

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.module + end for end in ENDS)

    @property
    def tile(self) -> int:
        return len(ORDER)

    def codes(self, read: Read, start: int, stop: int) -> Codes:
        scales = read(self.module + ".scales", start, stop, axis=1).T.astype(np.float32)
        values, zeros = (self._numbers(read, self.module + end, start, stop) for end in ENDS[:2])
        return Codes(values, scales, zeros, self.group)

    def _numbers(self, read: Read, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start…stop of what is packed in columns: [stored rows, words] → [rows, stored rows]."""
        begin = start // self.tile
        words = np.ascontiguousarray(read(name, begin, -(-stop // self.tile), axis=1).T)
        numbers = np.empty((words.shape[0], self.tile, words.shape[1]), np.uint8)
        for place, neighbour in enumerate(ORDER):
            numbers[:, neighbour] = (words >> (4 * place)) & 15
        return numbers.reshape(-1, words.shape[1])[start - begin * self.tile :][: stop - start]


def read(checkpoint: Checkpoint, quantization: Mapping[str, Any]) -> Quantized:
    """The AWQ weights of a checkpoint. Raises FamilyError for another form, and for parts that do not go together."""
    choice(quantization, "version", "gemm", "gemm", "GEMM")
    bits = choice(quantization, "bits", None, 4)
    choice(quantization, "zero_point", True, True)
    group = group_size(quantization)
    form = Quantization(bits, group, False)
    weights = {f"{name}.weight": _weight(checkpoint, name, group, form) for name in modules(checkpoint, ENDS)}
    return Quantized(title("awq", bits, group), weights)


def _weight(checkpoint: Checkpoint, module: str, group: int | None, form: Quantization) -> AwqWeight:
    qweight, qzeros, scales = (module + end for end in ENDS)
    tensor(checkpoint, qweight, first(checkpoint, (qweight, qzeros, scales)), WORDS)
    columns, words = checkpoint.tensors[qweight].shape
    count = 1 if group is None else -(-columns // group)
    tensor(checkpoint, qzeros, qweight, WORDS, (count, words))
    tensor(checkpoint, scales, qweight, FLOATS, (count, words * len(ORDER)))
    return AwqWeight(module, (words * len(ORDER), columns), group or max(columns, 1), form)
