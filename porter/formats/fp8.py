"""DeepSeek's released FP8 form: float8_e4m3fn weights with one scale per block (`weight_scale_inv`).

Source: DeepSeek-V3's inference code and config (`quantization_config`: fmt e4m3, weight_block_size [128, 128]).
A weight is q * scale_inv, the product in float32; blocks are counted from row and column 0, edge blocks are smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from porter.checkpoint import Checkpoint
from porter.errors import FamilyError
from porter.formats.blocks import BlockWeight, blocks
from porter.formats.packed import Quantized
from porter.formats.stored import FLOATS, RELEASE, choice, tensor

SCALE = "_scale_inv"


def read(checkpoint: Checkpoint, quantization: Mapping[str, Any]) -> Quantized:
    """The FP8 weights of a checkpoint.

    Raises FamilyError for another form of FP8, and for weights and scales that do not pair.
    """
    choice(quantization, "fmt", "e4m3", "e4m3")
    block = block_size(quantization.get("weight_block_size"), "weight_block_size")
    codes = {n for n, t in checkpoint.tensors.items() if t.dtype.startswith("F8_")}
    scaled = {n.removesuffix(SCALE) for n in checkpoint.tensors if n.endswith(SCALE)}
    weights = {name: _weight(checkpoint, name, block) for name in sorted(codes | scaled)}
    return Quantized(f"fp8, blocks of {block[0]} x {block[1]}", weights)


def block_size(value: object, name: str) -> tuple[int, int]:
    """Rows and columns of a block, out of config.json. Raises FamilyError for what is no two sizes."""
    if not isinstance(value, list) or len(value) != 2 or not all(type(n) is int and n > 0 for n in value):
        raise FamilyError(f"config.json: quantization_config has no {name} of two sizes", RELEASE)
    return value[0], value[1]


def _weight(checkpoint: Checkpoint, name: str, block: tuple[int, int]) -> BlockWeight:
    tensor(checkpoint, name, name + SCALE, ("F8_E4M3",))
    shape = checkpoint.tensors[name].shape
    tensor(checkpoint, name + SCALE, name, FLOATS, blocks(shape, block))
    return BlockWeight(name, name + SCALE, shape, block)
