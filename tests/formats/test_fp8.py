"""DeepSeek's FP8 blocks: the decoding beside a loop that takes one element at a time, and what does not pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from porter.checkpoint import Checkpoint, open_checkpoint, write_header
from porter.errors import FamilyError
from porter.fp8 import Fp8Blocks

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [4, 3]}
NAMES = {np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3", np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}


def write(folder: Path, tensors: dict[str, np.ndarray], quantization: Any = FP8) -> Checkpoint:
    entries = [(name, NAMES[array.dtype], array.shape) for name, array in tensors.items()]
    data = b"".join(array.tobytes() for array in tensors.values())
    (folder / "model.safetensors").write_bytes(write_header(entries) + data)
    config = {"model_type": "x"} | ({} if quantization is None else {"quantization_config": quantization})
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


def pair(rows: int, columns: int) -> dict[str, np.ndarray]:
    """A weight and its scales, blocks of 4 x 3, with smaller blocks at the edges."""
    rng = np.random.default_rng(rows * columns)
    weight = rng.standard_normal((rows, columns)).astype(ml_dtypes.float8_e4m3fn)
    scale = rng.random((-(-rows // 4), -(-columns // 3)), dtype=np.float32)
    return {"w.weight": weight, "w.weight_scale_inv": scale}


def one_by_one(tensors: dict[str, np.ndarray]) -> np.ndarray:
    weight, scale = tensors["w.weight"], tensors["w.weight_scale_inv"]
    result = np.empty(weight.shape, np.float32)
    for i, j in np.ndindex(weight.shape):
        result[i, j] = np.float32(weight[i, j]) * scale[i // 4, j // 3]
    return result


@pytest.mark.parametrize("shape", [(8, 6), (9, 7), (1, 1), (3, 20), (13, 2)])
def test_a_weight_decodes_as_element_by_element(tmp_path: Path, shape: tuple[int, int]) -> None:
    tensors = pair(*shape)
    blocks = Fp8Blocks.of(write(tmp_path, tensors))
    assert blocks is not None
    np.testing.assert_array_equal(blocks.decode("w.weight", 0, shape[0]), one_by_one(tensors))


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 5), (4, 8), (5, 6), (7, 11), (10, 11)])
def test_rows_decode_wherever_they_start(tmp_path: Path, start: int, stop: int) -> None:
    tensors = pair(11, 7)
    blocks = Fp8Blocks.of(write(tmp_path, tensors))
    assert blocks is not None
    np.testing.assert_array_equal(blocks.decode("w.weight", start, stop), one_by_one(tensors)[start:stop])


def test_a_checkpoint_without_quantization_has_no_blocks(tmp_path: Path) -> None:
    assert Fp8Blocks.of(write(tmp_path, {"a": np.ones((2, 2), np.float32)}, None)) is None


def harmed(name: str, value: np.ndarray | None) -> dict[str, np.ndarray]:
    tensors = pair(8, 6) | ({} if value is None else {name: value})
    return {n: t for n, t in tensors.items() if value is not None or n != name}


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (harmed("w.weight_scale_inv", None), "has no 'w.weight_scale_inv'"),
        (harmed("w.weight", None), "has no 'w.weight'"),
        (harmed("w.weight_scale_inv", np.ones((2, 3), np.float32)), "[2, 2] blocks are needed"),
        (harmed("w.weight_scale_inv", np.ones((2, 2), np.float16)), "scale of F16"),
        (harmed("w.weight", np.ones((8, 6), np.float32)), "'w.weight' is F32"),
    ],
)
def test_what_does_not_pair_is_refused(tmp_path: Path, tensors: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(FamilyError) as refusal:
        Fp8Blocks.of(write(tmp_path, tensors))
    assert says in refusal.value.message
    assert refusal.value.hint


@pytest.mark.parametrize(
    "quantization",
    [
        None,
        [],
        {},
        {"quant_method": "gptq"},
        FP8 | {"fmt": "e5m2"},
        FP8 | {"weight_block_size": None},
        FP8 | {"weight_block_size": [128]},
        FP8 | {"weight_block_size": [0, 4]},
    ],
)
def test_other_forms_of_quantization_are_refused(tmp_path: Path, quantization: Any) -> None:
    with pytest.raises(FamilyError, match=r"FP8|quantization_config"):
        Fp8Blocks.of(write(tmp_path, pair(8, 6), quantization))
