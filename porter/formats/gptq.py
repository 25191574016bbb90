"""GPTQ as AutoGPTQ and GPTQModel store it: int4 or int8 codes in words of 32 bits, the matrix lying on its side.

For a weight [N, K]: qweight [K * bits / 32, N], packed along K, lowest bits first; scales [G, N]; qzeros
[G, N * bits / 32], packed along N; g_idx [K], the group of each column, in no order where `desc_act` was on.
weight[n, k] = scales[g, n] * (q[k, n] - z[g, n]) with g = g_idx[k].
Source: GPTQModel's packing (qlinear) and its conversion between "gptq" and "gptq_v2": in "gptq" the zero points are
stored less one. So 0 cannot be stored, and of what was written in its place programs make different numbers: refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter.checkpoint import Checkpoint, Read
from porter.errors import FamilyError
from porter.formats.packed import Codes, Quantized
from porter.formats.stored import FLOATS, WORDS, choice, fields, first, group_order, group_size, modules, tensor, title
from porter.quantize import Quantization

ENDS = (".qweight", ".qzeros", ".scales", ".g_idx")
STORED_LESS = {"gptq": 1, "gptq_v2": 0}  # what was taken off the zero points, by `checkpoint_format`
NO_BIAS = "zeros that AutoGPTQ writes for a layer without a bias"


@dataclass(frozen=True, slots=True)
class GptqWeight:
    """A weight that is stored packed and on its side: its rows are columns of what is stored."""

    module: str
    shape: tuple[int, ...]
    bits: int
    group: int
    stored_less: int
    ordered: bool  # whether there is a g_idx
    form: Quantization | None

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.module + end for end in (ENDS if self.ordered else ENDS[:3]))

    @property
    def tile(self) -> int:
        return 32 // self.bits  # rows whose zero points share a word

    def codes(self, read: Read, start: int, stop: int) -> Codes:
        words = read(self.module + ".qweight", start, stop, axis=1)  # [K * bits / 32, rows]
        scales = read(self.module + ".scales", start, stop, axis=1)  # [groups, rows]
        order = None
        if self.ordered:
            stored = read(self.module + ".g_idx", 0, self.shape[1])
            order = group_order(stored, self.group, scales.shape[0], self.module + ".g_idx")
        zeros = self._zeros(read, start, stop)
        return Codes(fields(words.T, self.bits), scales.T.astype(np.float32), zeros, self.group, order)

    def _zeros(self, read: Read, start: int, stop: int) -> np.ndarray:
        """The zero points, [rows, groups]. Raises FamilyError for one that programs do not agree on."""
        begin = start // self.tile
        words = read(self.module + ".qzeros", begin, -(-stop // self.tile), axis=1)
        stored = fields(words, self.bits)[:, start - begin * self.tile :][:, : stop - start]
        if self.stored_less and stored.size and stored.max() == 2**self.bits - 1:
            raise FamilyError(
                f"tensor '{self.module}.qzeros' holds the zero point 0, which checkpoint_format 'gptq' cannot store",
                "programs read it differently: save the model again with checkpoint_format 'gptq_v2'",
            )
        return (stored + np.uint8(self.stored_less)).T


def read(checkpoint: Checkpoint, quantization: Mapping[str, Any]) -> Quantized:
    """The GPTQ weights of a checkpoint. Raises FamilyError for another form, and for parts that do not go together."""
    bits = choice(quantization, "bits", None, 4, 8)
    spelt = "checkpoint_format" if "checkpoint_format" in quantization else "format"
    layout = choice(quantization, spelt, "gptq", *STORED_LESS)
    choice(quantization, "pack_dtype", "int32", "int32")
    choice(quantization, "is_marlin_format", False, False)
    _refuse_overrides(quantization.get("dynamic"))
    group, scattered = group_size(quantization), choice(quantization, "desc_act", False, False, True)
    form = None if scattered else Quantization(bits, group, choice(quantization, "sym", False, False, True))
    names = modules(checkpoint, ENDS)
    weights = {
        f"{name}.weight": _weight(checkpoint, name, bits, group, STORED_LESS[layout], form, scattered) for name in names
    }
    biases = {f"{name}.bias": NO_BIAS for name in names if f"{name}.bias" in checkpoint.tensors}
    return Quantized(title("gptq", bits, group), weights, idle_zeros=biases)


def _refuse_overrides(dynamic: object) -> None:
    """GPTQModel's `dynamic` gives modules bits of their own; those that it only leaves out begin with a minus."""
    others = [pattern for pattern in dynamic if not pattern.startswith("-")] if isinstance(dynamic, dict) else []
    if others:
        raise FamilyError(
            f"config.json: quantization_config gives '{others[0]}' a form of its own, which is not read",
            "known: one form for all, with patterns that begin with '-:' for what is not quantized",
        )


def _weight(
    checkpoint: Checkpoint,
    module: str,
    bits: int,
    group: int | None,
    stored_less: int,
    form: Quantization | None,
    scattered: bool,
) -> GptqWeight:
    qweight, qzeros, scales, g_idx = (module + end for end in ENDS)
    tensor(checkpoint, qweight, first(checkpoint, (qweight, qzeros, scales, g_idx)), WORDS)
    words, rows = checkpoint.tensors[qweight].shape
    columns = words * 32 // bits
    count = 1 if group is None else -(-columns // group)
    tensor(checkpoint, scales, qweight, FLOATS, (count, rows))
    tensor(checkpoint, qzeros, qweight, WORDS, (count, -(-rows * bits // 32)))
    ordered = scattered or g_idx in checkpoint.tensors
    if ordered:
        tensor(checkpoint, g_idx, qweight, ("I32", "I64"), (columns,))
    return GptqWeight(module, (rows, columns), bits, group or max(columns, 1), stored_less, ordered, form)
