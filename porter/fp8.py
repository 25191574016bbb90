"""DeepSeek's released FP8 form: float8_e4m3fn weights with one float32 scale per block (`weight_scale_inv`).

Source: DeepSeek-V3's inference code and config (`quantization_config`: fmt e4m3, weight_block_size [128, 128]).
A weight is q * scale_inv, the product in float32; blocks are counted from row and column 0, edge blocks are smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from porter.checkpoint import Checkpoint
from porter.errors import FamilyError

SCALE = "_scale_inv"


@dataclass(frozen=True)
class Fp8Blocks:
    """Which tensors of a checkpoint are FP8 with block scales, and how to read them."""

    checkpoint: Checkpoint
    block: tuple[int, int]
    weights: frozenset[str]
    scales: frozenset[str]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Fp8Blocks | None:
        """None for a checkpoint without quantization. Raises FamilyError for one quantized in a form not known, or
        whose weights and scales do not pair.
        """
        quantization = checkpoint.config.get("quantization_config")
        fp8 = {n for n, t in checkpoint.tensors.items() if t.dtype.startswith("F8_")}
        if quantization is None:
            if fp8:
                raise FamilyError(
                    f"tensor '{min(fp8)}' is FP8, but config.json has no quantization_config", "restore config.json"
                )
            return None
        block = _block(quantization)
        scales = {n for n in checkpoint.tensors if n.endswith(SCALE)}
        for name in sorted(fp8 | {s.removesuffix(SCALE) for s in scales}):
            _check_pair(checkpoint, name, block)
        return cls(checkpoint, block, frozenset(fp8), frozenset(scales))

    def decode(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start…stop of a weight in float32."""
        rows, columns = self.block
        q = self.checkpoint.read(name)[start:stop].astype(np.float32)
        scale = self.checkpoint.read(name + SCALE)[start // rows : -(-stop // rows)]
        by_row = np.repeat(scale, rows, axis=0)[start % rows :][: stop - start]
        return np.asarray(q * np.repeat(by_row, columns, axis=1)[:, : q.shape[1]])


def _block(quantization: object) -> tuple[int, int]:
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method != "fp8":
        raise FamilyError(
            f"config.json: quantization_config of method {method!r} is not read", "known: 'fp8' with weight_block_size"
        )
    assert isinstance(quantization, dict)
    size = quantization.get("weight_block_size")
    if (
        quantization.get("fmt", "e4m3") != "e4m3"
        or not isinstance(size, list)
        or len(size) != 2
        or not all(type(n) is int and n > 0 for n in size)
    ):
        raise FamilyError(
            "config.json: quantization_config is not the e4m3 form with a weight_block_size of two sizes",
            "compare it with the model's release",
        )
    return size[0], size[1]


def _check_pair(checkpoint: Checkpoint, name: str, block: tuple[int, int]) -> None:
    weight, scale = checkpoint.tensors.get(name), checkpoint.tensors.get(name + SCALE)
    if weight is None or scale is None:
        present, absent = (name, name + SCALE) if scale is None else (name + SCALE, name)
        raise FamilyError(f"tensor '{present}' has no '{absent}'", "the download may be incomplete")
    if weight.dtype != "F8_E4M3" or len(weight.shape) != 2 or scale.dtype != "F32":
        raise FamilyError(
            f"tensor '{name}' is {weight.dtype} of {len(weight.shape)} dimensions with a scale of {scale.dtype}",
            "FP8 weights are F8_E4M3 matrices with F32 scales",
        )
    expected = tuple(-(-n // b) for n, b in zip(weight.shape, block, strict=True))
    if scale.shape != expected:
        raise FamilyError(
            f"tensor '{scale.name}' has shape {list(scale.shape)}, but {list(expected)} blocks are needed",
            "check weight_block_size",
        )
