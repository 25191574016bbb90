"""Packs weights as the published quantizers do, written from their documented layouts.

What a form stores of a weight [N, K] comes back beside the float32 weight that it stands for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from porter.checkpoint import DTYPES, Checkpoint, open_checkpoint, write_header

NAMES = {dtype: name for name, dtype in DTYPES.items()}
Arrays = dict[str, np.ndarray]
Made = tuple[Arrays, np.ndarray]  # what is stored, by the ends of its names; the weight


@dataclass(frozen=True)
class Grid:
    """A weight as integers on a grid: weight = (codes - zeros) * scales, each group of columns with its own."""

    codes: np.ndarray  # [N, K] from 0
    scales: np.ndarray  # [N, G] float16
    zeros: np.ndarray  # [N, G] from 0
    order: np.ndarray  # [K] the group of each column

    @property
    def weight(self) -> np.ndarray:
        offset = self.codes.astype(np.float32) - self.zeros.astype(np.float32)[:, self.order]
        return offset * self.scales.astype(np.float32)[:, self.order]


def grid(weight: np.ndarray, bits: int, group: int, *, symmetric: bool = True, scattered: bool = False) -> Grid:
    """The nearest numbers on a grid, with the scales of each group as they fit."""
    rows, columns = weight.shape
    order = np.arange(columns) // group
    if scattered:
        order = np.random.default_rng(columns).permutation(order)
    scales, zeros = np.empty((rows, columns // group), np.float16), np.empty((rows, columns // group), np.int64)
    middle, most = 2 ** (bits - 1), 2**bits - 1
    for g in range(columns // group):
        part = weight[:, order == g]
        low, high = part.min(1), part.max(1)
        if symmetric:
            scales[:, g] = np.maximum(np.abs(part).max(1) / (middle - 1), 1e-6)
            zeros[:, g] = middle
        else:
            scales[:, g] = np.maximum((high - low) / most, 1e-6)
            zeros[:, g] = np.clip(np.round(-low / scales[:, g].astype(np.float32)), 1, most)
    codes = np.clip(np.round(weight / scales.astype(np.float32)[:, order]) + zeros[:, order], 0, most)
    return Grid(codes.astype(np.int64), scales, zeros, order)


def words(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers from 0 along the last axis, packed into int32, the first in the lowest bits."""
    each = 32 // bits
    filled = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, -numbers.shape[-1] % each)])
    split = filled.reshape(*filled.shape[:-1], -1, each).astype(np.uint64)
    return sum(split[..., i] << (bits * i) for i in range(each)).astype(np.uint32).view(np.int32)


def gptq(weight: np.ndarray, bits: int = 4, group: int = 8, *, older: bool = True, **how: bool) -> Made:
    g = grid(weight, bits, group, **how)
    stored = {
        "qweight": words(g.codes, bits).T,
        "qzeros": words(g.zeros.T - int(older), bits),
        "scales": g.scales.T,
        "g_idx": g.order.astype(np.int32),
    }
    return stored, g.weight


def awq(weight: np.ndarray, group: int = 8) -> Made:
    g = grid(weight, 4, group, symmetric=False)
    mixed = [8 * (n // 8) + (0, 2, 4, 6, 1, 3, 5, 7)[n % 8] for n in range(weight.shape[0])]
    codes, zeros = words(g.codes.T[:, mixed], 4), words(g.zeros.T[:, mixed], 4)
    return {"qweight": codes, "qzeros": zeros, "scales": g.scales.T}, g.weight


def packed(weight: np.ndarray, bits: int = 4, group: int = 8, **how: bool) -> Made:
    """pack-quantized of compressed-tensors."""
    g = grid(weight, bits, group, **how)
    stored = {
        "weight_packed": words(g.codes, bits),
        "weight_shape": np.array(weight.shape, np.int64),
        "weight_scale": g.scales,
    }
    if not how.get("symmetric", True):
        stored["weight_zero_point"] = words(g.zeros.T, bits).T
    if how.get("scattered"):
        stored["weight_g_idx"] = g.order.astype(np.int32)
    return stored, g.weight


def int8(weight: np.ndarray, *, symmetric: bool = True) -> Made:
    """int-quantized of compressed-tensors, one scale to a row."""
    g = grid(weight, 8, weight.shape[1], symmetric=symmetric)
    stored = {"weight": (g.codes - 128).astype(np.int8), "weight_scale": g.scales}
    if not symmetric:
        stored["weight_zero_point"] = (g.zeros - 128).astype(np.int8)
    return stored, g.weight


def float8(weight: np.ndarray, block: tuple[int, int], end: str = "weight_scale_inv") -> Made:
    """FP8 with one scale to a block, element by element."""
    counts = [-(-side // size) for side, size in zip(weight.shape, block, strict=True)]
    scales, codes = np.empty(counts, np.float32), np.empty(weight.shape, ml_dtypes.float8_e4m3fn)
    result = np.empty(weight.shape, np.float32)
    for i, j in np.ndindex(*counts):
        place = np.s_[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
        scales[i, j] = np.abs(weight[place]).max() / 448
        codes[place] = (weight[place] / scales[i, j]).astype(codes.dtype)
        result[place] = codes[place].astype(np.float32) * scales[i, j]
    return {"weight": codes, end: scales}, result


def config_group(**weights: Any) -> dict[str, Any]:
    """config_groups of compressed-tensors."""
    return {"group_0": {"targets": ["Linear"], "weights": {"type": "int", "symmetric": True, **weights}}}


def compressed(layout: str, **weights: Any) -> dict[str, Any]:
    """quantization_config of compressed-tensors."""
    given = {"format": layout, "config_groups": config_group(**weights), "ignore": ["lm_head"]}
    return {"quant_method": "compressed-tensors", **given}


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 8, "zero_point": True, "version": "gemm"}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 10]}
GROUPS = {"strategy": "group", "group_size": 8}
# Every form that is read: its quantization_config, and how it packs a weight.
FORMS: dict[str, tuple[dict[str, Any], Callable[[np.ndarray], Made]]] = {
    "fp8": (FP8, lambda w: float8(w, (16, 10))),
    "gptq": (GPTQ, gptq),
    "gptq-asymmetric": (GPTQ | {"sym": False}, lambda w: gptq(w, symmetric=False)),
    "gptq-scattered": (GPTQ | {"desc_act": True}, lambda w: gptq(w, scattered=True)),
    "gptq-v2": (GPTQ | {"checkpoint_format": "gptq_v2", "sym": False}, lambda w: gptq(w, older=False, symmetric=False)),
    "gptq-8-bits": (GPTQ | {"bits": 8}, lambda w: gptq(w, 8)),
    "gptq-whole-rows": (GPTQ | {"group_size": -1}, lambda w: gptq(w, group=w.shape[1])),
    "awq": (AWQ, awq),
    "int8": (compressed("int-quantized", num_bits=8, strategy="channel"), int8),
    "int8-asymmetric": (
        compressed("int-quantized", num_bits=8, strategy="channel", symmetric=False),
        lambda w: int8(w, symmetric=False),
    ),
    "packed": (compressed("pack-quantized", num_bits=4, **GROUPS), packed),
    "packed-asymmetric": (
        compressed("pack-quantized", num_bits=4, symmetric=False, **GROUPS),
        lambda w: packed(w, symmetric=False),
    ),
    "packed-scattered": (
        compressed("pack-quantized", num_bits=4, actorder="group", **GROUPS),
        lambda w: packed(w, scattered=True),
    ),
    "packed-8-bits": (
        compressed("pack-quantized", num_bits=8, strategy="channel"),
        lambda w: packed(w, 8, w.shape[1]),
    ),
    "float8-rows": (
        compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
        lambda w: float8(w, (1, w.shape[1]), "weight_scale"),
    ),
    "float8-blocks": (
        compressed("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[16, 10]),
        lambda w: float8(w, (16, 10), "weight_scale"),
    ),
}


def pack(form: str, weight: np.ndarray, module: str = "w") -> tuple[Arrays, np.ndarray]:
    """A weight in a form: its tensors under the names that they have in a checkpoint, and what they stand for."""
    stored, means = FORMS[form][1](weight)
    return {f"{module}.{end}": np.ascontiguousarray(array) for end, array in stored.items()}, means


def write(folder: Path, tensors: Mapping[str, np.ndarray], quantization: Any) -> Checkpoint:
    """A checkpoint of these tensors."""
    folder.mkdir(exist_ok=True)
    entries = [(name, NAMES[array.dtype], array.shape) for name, array in tensors.items()]
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in tensors.values())
    (folder / "model.safetensors").write_bytes(write_header(entries) + data)
    config = {"model_type": "x"} | ({} if quantization is None else {"quantization_config": quantization})
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


def quantize_checkpoint(folder: Path, form: str) -> None:
    """Puts the projections of a checkpoint of one file into a form, in place."""
    checkpoint = open_checkpoint(folder)
    tensors: Arrays = {}
    for name in sorted(checkpoint.tensors):
        array = checkpoint.read(name)
        if name.endswith("proj.weight") or name.endswith("proj_with_mqa.weight"):
            stored, _ = pack(form, array.astype(np.float32), name.removesuffix(".weight"))
            tensors |= stored
        else:
            tensors[name] = array
    config = checkpoint.config | {"quantization_config": FORMS[form][0]}
    write(folder, tensors, None)
    (folder / "config.json").write_text(json.dumps(config))
