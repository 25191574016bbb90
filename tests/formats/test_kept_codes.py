"""Codes that lie in the form that `--quantize` asks for are the port's as they are: nothing is rounded once more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import packing
import pytest

from porter.blocks.module import Parameter
from porter.quantize import Quantization
from porter.source import Ledger, Source
from porter.weights import Piece, Weight, content

GROUPS = {"group_size": 32}
CASES: dict[str, tuple[dict[str, Any], Callable[[np.ndarray], packing.Made], str]] = {
    "gptq": (packing.GPTQ | GROUPS, lambda w: packing.gptq(w, group=32), "int4:32"),
    "gptq-asymmetric": (
        packing.GPTQ | GROUPS | {"sym": False},
        lambda w: packing.gptq(w, group=32, symmetric=False),
        "int4:32:asymmetric",
    ),
    "gptq-8-bits": (
        packing.GPTQ | {"bits": 8, "group_size": -1},
        lambda w: packing.gptq(w, 8, group=w.shape[1]),
        "int8",
    ),
    "awq": (packing.AWQ | GROUPS, lambda w: packing.awq(w, group=32), "int4:32:asymmetric"),
    "packed": (
        packing.compressed("pack-quantized", num_bits=4, strategy="group", **GROUPS),
        lambda w: packing.packed(w, group=32),
        "int4:32",
    ),
    "packed-asymmetric": (
        packing.compressed("pack-quantized", num_bits=4, strategy="group", symmetric=False, **GROUPS),
        lambda w: packing.packed(w, group=32, symmetric=False),
        "int4:32:asymmetric",
    ),
    "int8": (packing.compressed("int-quantized", num_bits=8, strategy="channel"), packing.int8, "int8"),
}
SHAPE = (48, 96)


@pytest.fixture
def numbers() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def stored(folder: Path, made: packing.Made, config: dict[str, Any], form: str) -> tuple[np.ndarray, ...]:
    """What becomes of rows 8…40 of a packed weight."""
    tensors = {f"w.{end}": np.ascontiguousarray(array) for end, array in made[0].items()}
    source = Source(packing.write(folder, tensors, config))
    piece = Piece("w.weight", SHAPE, 8, 40)
    weight = Weight(Parameter((32, 96), name="w", quantization=Quantization.parse(form)), (piece,))
    parts = list(content(weight, piece, source, Ledger(source.checkpoint).read, ir.DataType.FLOAT))
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def means(form: str, parts: tuple[np.ndarray, ...]) -> np.ndarray:
    codes, scales, *zeros = parts
    if form == "int8":
        return codes.astype(np.float32) * scales[:, None]
    wide = np.stack([codes % 16, codes // 16], axis=-1).astype(np.float32).reshape(len(codes), -1, 32)
    zero = zeros[0].astype(np.float32) if zeros else np.full_like(scales, 8)
    return ((wide - zero[..., None]) * scales[..., None]).reshape(len(codes), -1)


@pytest.mark.parametrize("name", CASES)
def test_a_kept_code_means_what_it_meant(
    name: str, numbers: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, pack, form = CASES[name]
    made = pack(numbers)
    monkeypatch.delattr(Quantization, "encode")  # it could find the same codes again
    np.testing.assert_array_equal(means(form, stored(tmp_path, made, config, form)), made[1][8:40])


def test_a_code_that_is_out_of_reach_is_encoded_once_more(numbers: np.ndarray, tmp_path: Path) -> None:
    """What config.json calls symmetric has another zero point: its codes do not lie where a symmetric form has them."""
    config, _, form = CASES["gptq"]
    made = packing.gptq(np.abs(numbers), group=32, symmetric=False)
    found = means(form, stored(tmp_path, made, config, form))
    assert not np.array_equal(found, made[1][8:40])
    assert np.abs(found - made[1][8:40]).max() <= np.abs(made[1]).max() / 15 + 1e-6
