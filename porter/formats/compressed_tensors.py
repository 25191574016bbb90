"""compressed-tensors, as LLM Compressor writes it: 8-bit integers, FP8, and 4 or 8 bits packed into words of 32.

For a weight [N, K], each beside its `weight_scale`, and where it is asymmetric its `weight_zero_point`:
- int-quantized, float-quantized: `weight` [N, K] int8 or float8_e4m3fn.
- pack-quantized: `weight_packed` [N, K * bits / 32] int32, packed along K, lowest bits first, with `weight_shape` [2];
  its zero points are packed too, along N. What is packed has the middle, 8 or 128, added to it.
Scales are [1] (strategy "tensor"), [N, 1] ("channel"), [N, K / group_size] ("group") or one to a block ("block");
`weight_g_idx` [K] is the group of each column, where `actorder` made groups of columns that are not neighbours.
weight[n, k] = scale * (q[n, k] - zero). Source: the package's own compressors and its schema of config_groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter.checkpoint import Checkpoint, Read
from porter.errors import FamilyError
from porter.formats.blocks import BlockWeight, blocks
from porter.formats.fp8 import block_size
from porter.formats.packed import Codes, Packed, Quantized
from porter.formats.stored import (
    FLOATS,
    RELEASE,
    WORDS,
    choice,
    fields,
    first,
    group_order,
    group_size,
    modules,
    tensor,
)
from porter.quantize import Quantization

LAYOUTS = ("int-quantized", "float-quantized", "naive-quantized", "pack-quantized", "mixed-precision")
PACKED, SHAPE, SCALE, ZERO, ORDER = (
    f".weight{end}" for end in ("_packed", "_shape", "_scale", "_zero_point", "_g_idx")
)
REORDERED = ("group", "dynamic", True)  # what `actorder` says where groups are not neighbours
IDLE = (".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point", ".k_scale", ".v_scale")
LARGEST_FP8, LARGEST_INT8 = 448.0, 127.0
NOT_QUANTIZED = "a port quantizes neither activations nor the cache"


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight whose rows are packed into words; a group is `group` neighbours, or what `order` says."""

    module: str
    shape: tuple[int, ...]
    bits: int
    group: int
    zeros: bool
    ordered: bool

    @property
    def parts(self) -> tuple[str, ...]:
        ends = (PACKED, SHAPE, SCALE, *((ZERO,) if self.zeros else ()), *((ORDER,) if self.ordered else ()))
        return tuple(self.module + end for end in ends)

    @property
    def tile(self) -> int:
        return 32 // self.bits if self.zeros else 1

    @property
    def form(self) -> Quantization | None:
        block = None if self.bits == 8 and self.group >= self.shape[1] else self.group
        return None if self.ordered else Quantization(self.bits, block, not self.zeros)

    def codes(self, read: Read, start: int, stop: int) -> Codes:
        read(self.module + SHAPE, 0, 2)  # known already, but what a weight is made of belongs into the ledger
        values = fields(read(self.module + PACKED, start, stop), self.bits)[:, : self.shape[1]]
        scales = read(self.module + SCALE, start, stop).astype(np.float32)
        order = None
        if self.ordered:
            stored = read(self.module + ORDER, 0, self.shape[1])
            if not (stored == -1).any():  # where it was never filled in, groups are neighbours
                order = group_order(stored, self.group, scales.shape[1], self.module + ORDER)
        return Codes(self._signed(values), scales, self._zeros(read, start, stop), self.group, order)

    def _zeros(self, read: Read, start: int, stop: int) -> np.ndarray | None:
        if not self.zeros:
            return None
        begin = start // self.tile
        words = read(self.module + ZERO, begin, -(-stop // self.tile))  # [rows * bits / 32, groups]
        return self._signed(fields(words.T, self.bits).T[start - begin * self.tile :][: stop - start])

    def _signed(self, numbers: np.ndarray) -> np.ndarray:
        """Takes off the middle; numbers of 8 bits wrap around, which is meant."""
        return np.subtract(numbers, np.uint8(2 ** (self.bits - 1))).view(np.int8)


def read(checkpoint: Checkpoint, quantization: Mapping[str, Any]) -> Quantized:
    """The quantized weights of a checkpoint.

    Raises FamilyError for another layout, and for parts that do not go together or that `ignore` says are not there.
    """
    choice(quantization, "format", None, *LAYOUTS)
    _refuse_transforms(quantization)
    schemes = _schemes(quantization.get("config_groups"))
    ignored = _patterns(quantization.get("ignore") or [], "ignore")
    weights: dict[str, Packed] = {}
    for module in _modules(checkpoint):
        if any(_names(pattern, module) for pattern in ignored):
            message = f"config.json leaves '{module}' as it is, but its weight is stored quantized"
            raise FamilyError(message, f"one of the two was edited: {RELEASE}")
        weights[f"{module}.weight"] = _weight(checkpoint, module, _scheme_of(module, schemes))
    idle = {name: NOT_QUANTIZED for name in checkpoint.tensors if name.endswith(IDLE)}
    recorded = {name: code for end, code in _codes(quantization) for name in idle if name.endswith(end)}
    return Quantized(f"compressed-tensors, {quantization['format']}", weights, idle, recorded=recorded)


def _codes(quantization: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The largest code of activations and caches whose scale was taken while the original ran: what they reached is the
    product. Of several groups the least counts.
    """
    groups = quantization.get("config_groups")
    asked = [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    for ends, schemes in (
        ((".input_scale",), [group.get("input_activations") for group in asked]),
        ((".output_scale",), [group.get("output_activations") for group in asked]),
        ((".k_scale", ".v_scale"), [quantization.get("kv_cache_scheme")]),
    ):
        static = [s for s in schemes if isinstance(s, dict) and not s.get("dynamic") and s.get("num_bits") == 8]
        codes = [LARGEST_FP8 if scheme.get("type") == "float" else LARGEST_INT8 for scheme in static]
        yield from ((end, min(codes)) for end in ends if codes)


def _modules(checkpoint: Checkpoint) -> list[str]:
    """The modules that are stored quantized: with any part of it, or a weight that is no float as it stands."""
    narrow = {n for n, t in checkpoint.tensors.items() if t.dtype == "I8" or t.dtype.startswith("F8_")}
    codes = {n.removesuffix(".weight") for n in narrow if n.endswith(".weight")}
    return sorted(codes.union(modules(checkpoint, (PACKED, SHAPE, SCALE, ZERO, ORDER))))


def _refuse_transforms(quantization: Mapping[str, Any]) -> None:
    for name in ("sparsity_config", "transform_config"):
        given = quantization.get(name)
        if given and not (isinstance(given, dict) and given.get("format") == "dense"):
            raise FamilyError(
                f"config.json: quantization_config has a {name}, which is not read",
                "known: weights that are quantized and nothing else",
            )


def _schemes(groups: object) -> list[tuple[list[str], Mapping[str, Any]]]:
    """Targets, and how the weights of what they name are quantized."""
    schemes: list[tuple[list[str], Mapping[str, Any]]] = []
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            raise FamilyError("config.json: quantization_config has a group without weights", RELEASE)
        schemes.append((_patterns(group.get("targets"), "targets"), weights))
    return schemes


def _patterns(value: object, name: str) -> list[str]:
    """Names of modules, and regular expressions behind `re:`. Raises FamilyError for what is neither."""
    patterns = value if isinstance(value, list) and all(isinstance(p, str) for p in value) else None
    try:
        for pattern in patterns or ():
            if pattern.startswith("re:"):
                re.compile(pattern[3:])
    except re.error:
        patterns = None
    if patterns is None:
        raise FamilyError(f"config.json: quantization_config has {name} that are no patterns", RELEASE)
    return patterns


def _names(target: str, module: str) -> bool:
    """Whether a target or a pattern of `ignore` names this module: in full, or by a regular expression."""
    return re.match(target[3:], module) is not None if target.startswith("re:") else target == module


def _scheme_of(module: str, schemes: list[tuple[list[str], Mapping[str, Any]]]) -> Mapping[str, Any]:
    """A group that names the module goes before one that names the class of all of them."""
    for targets, weights in schemes:
        if any(_names(target, module) for target in targets):
            return weights
    for targets, weights in schemes:
        if "Linear" in targets:
            return weights
    raise FamilyError(f"config.json: no group of config_groups names '{module}'", RELEASE)


def _weight(checkpoint: Checkpoint, module: str, scheme: Mapping[str, Any]) -> Packed:
    packed = any(module + end in checkpoint.tensors for end in (PACKED, SHAPE))
    kind = choice(scheme, "type", "int", "int", "float")
    bits = choice(scheme, "num_bits", None, *((4, 8) if packed else (8,)))
    symmetric = choice(scheme, "symmetric", True, False, True)
    zero = None if symmetric and module + ZERO not in checkpoint.tensors else module + ZERO
    if packed:
        return _packed(checkpoint, module, bits, scheme, zero)
    name, scale = f"{module}.weight", module + SCALE
    parts = [n for n in (scale, module + ZERO, module + SHAPE, module + ORDER) if n in checkpoint.tensors]
    tensor(checkpoint, name, parts[0] if parts else name, ("I8",) if kind == "int" else ("F8_E4M3",))
    shape = checkpoint.tensors[name].shape
    block, grid = _grid(scheme, shape)
    tensor(checkpoint, scale, name, FLOATS, *grid)
    if zero is not None:
        tensor(checkpoint, zero, name, ("I8",), *grid)
    form = Quantization(8, None if block[1] == shape[1] else block[1], zero is None) if kind == "int" else None
    return BlockWeight(name, scale, shape, block, zero, form)


def _packed(
    checkpoint: Checkpoint, module: str, bits: int, scheme: Mapping[str, Any], zero: str | None
) -> PackedWeight:
    name, scale = module + PACKED, module + SCALE
    beside = first(checkpoint, (module + end for end in (PACKED, SHAPE, SCALE, ZERO, ORDER)))
    tensor(checkpoint, name, beside, WORDS)
    rows, words = checkpoint.tensors[name].shape
    columns = _columns(checkpoint, tensor(checkpoint, module + SHAPE, name, ("I32", "I64"), (2,)), rows, words, bits)
    block, grid = _grid(scheme, (rows, columns))
    if block[0] != 1:
        choice(scheme, "strategy", None, "channel", "group")
    tensor(checkpoint, scale, name, FLOATS, *grid)
    if zero is not None:
        tensor(checkpoint, zero, name, WORDS, (-(-rows * bits // 32), grid[0][1]))
    ordered = scheme.get("actorder") in REORDERED or module + ORDER in checkpoint.tensors
    if ordered:
        tensor(checkpoint, module + ORDER, name, ("I32", "I64"), (columns,))
    return PackedWeight(module, (rows, columns), bits, block[1], zero is not None, ordered)


def _columns(checkpoint: Checkpoint, name: str, rows: int, words: int, bits: int) -> int:
    """The columns of a packed weight, whose last word may be filled up: two numbers that are read, as no header has
    them.
    """
    said, columns = (int(n) for n in checkpoint.read(name))
    if said != rows or columns < 0 or -(-columns * bits // 32) != words:
        packed = f"{rows} rows of {words} words"
        raise FamilyError(f"tensor '{name}' says {[said, columns]}, but {packed} are stored", RELEASE)
    return columns


def _grid(scheme: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[tuple[int, ...], ...]]:
    """The block that shares a scale, and the shapes that the scales may have."""
    rows, columns = max(shape[0], 1), max(shape[1], 1)
    match choice(scheme, "strategy", None, "tensor", "channel", "group", "block"):
        case "tensor":
            return (rows, columns), ((1,), (), (1, 1))
        case "channel":
            return (1, columns), ((shape[0], 1),)
        case "group":
            block = (1, group_size(scheme) or columns)
        case _:
            block = block_size(scheme.get("block_structure"), "block_structure")
    return block, (blocks(shape, block),)
