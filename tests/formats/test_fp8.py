"""DeepSeek's FP8 blocks: numbers worked out by hand, the decoding beside a loop, and what does not pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from packing import write

from porter.errors import FamilyError
from porter.formats import Quantized, decode, format_of

E4M3, BF16 = np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.bfloat16)
FLOAT = np.dtype(np.float32)
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [4, 3]}
ALL = np.arange(256, dtype=np.uint8).view(E4M3)


def pair(rows: int, columns: int) -> dict[str, np.ndarray]:
    """A weight and its scales, blocks of 4 x 3, with smaller blocks at the edges."""
    rng = np.random.default_rng(rows * columns)
    weight = rng.standard_normal((rows, columns)).astype(E4M3)
    scale = rng.random((-(-rows // 4), -(-columns // 3)), dtype=np.float32)
    return {"w.weight": weight, "w.weight_scale_inv": scale}


def rows(folder: Path, tensors: dict[str, np.ndarray], start: int, stop: int, dtype: np.dtype = FLOAT) -> np.ndarray:
    checkpoint = write(folder, tensors, FP8)
    return decode(format_of(checkpoint).weights["w.weight"].codes(checkpoint.read, start, stop), dtype, "w.weight")


def one_by_one(tensors: dict[str, np.ndarray]) -> np.ndarray:
    weight, scale = tensors["w.weight"], tensors["w.weight_scale_inv"]
    result = np.empty(weight.shape, np.float32)
    for i, j in np.ndindex(weight.shape):
        result[i, j] = np.float32(weight[i, j]) * np.float32(scale[i // 4, j // 3])
    return result


def test_numbers_worked_out_by_hand(tmp_path: Path) -> None:
    """0x38 is 1, 0x3c is 1.5, 0xc0 is -2, 0x01 is 2^-9, 0x7e is 448, 0x80 is -0."""
    codes = np.array([[0x38, 0x3C, 0xC0, 0x01], [0x7E, 0x80, 0x38, 0x38]], np.uint8).view(E4M3)
    tensors = {"w.weight": codes, "w.weight_scale_inv": np.array([[0.5, 3.0]], np.float32)}
    read = rows(tmp_path, tensors, 0, 2)
    np.testing.assert_array_equal(read, [[0.5, 0.75, -1.0, 3 * 2**-9], [224.0, 0.0, 0.5, 3.0]])
    assert np.signbit(read[1, 1])


@pytest.mark.parametrize("scale", [1.0, 3e-5, 2.0**-149, 2.0**-126, 127.9, 128.0, 1e30])
@pytest.mark.parametrize("dtype", [FLOAT, BF16])
@pytest.mark.parametrize("among", [ALL, ALL[np.isfinite(ALL.astype(np.float32))]])
def test_every_code_decodes_as_its_number(tmp_path: Path, scale: float, dtype: np.dtype, among: np.ndarray) -> None:
    """NaN too; what is too small for the dtype becomes a subnormal number or nothing, as it does in numpy."""
    codes = np.resize(among, (86, 3))
    wanted = (codes.astype(np.float32) * np.float32(scale)).astype(dtype)
    tensors = {"w.weight": codes, "w.weight_scale_inv": np.full((22, 1), scale, np.float32)}
    read = rows(tmp_path, tensors, 0, 86, dtype)
    np.testing.assert_array_equal(read.view(f"u{dtype.itemsize}"), wanted.view(f"u{dtype.itemsize}"))


@pytest.mark.parametrize("shape", [(8, 6), (9, 7), (1, 1), (3, 20), (13, 2), (300, 301)])
@pytest.mark.parametrize("kind", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_a_weight_decodes_as_element_by_element(tmp_path: Path, shape: tuple[int, int], kind: Any) -> None:
    tensors = pair(*shape)
    tensors["w.weight_scale_inv"] = tensors["w.weight_scale_inv"].astype(kind)
    np.testing.assert_array_equal(rows(tmp_path, tensors, 0, shape[0]), one_by_one(tensors))


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 5), (4, 8), (5, 6), (7, 11), (10, 11)])
def test_rows_decode_wherever_they_start(tmp_path: Path, start: int, stop: int) -> None:
    tensors = pair(11, 7)
    np.testing.assert_array_equal(rows(tmp_path, tensors, start, stop), one_by_one(tensors)[start:stop])


def test_a_product_that_does_not_fit_is_not_made_infinite(tmp_path: Path) -> None:
    tensors = pair(4, 3) | {"w.weight_scale_inv": np.array([[1e6]], np.float32)}
    with pytest.raises(FamilyError, match=r"tensor 'w.weight' holds .*, which float16 cannot"):
        rows(tmp_path, tensors, 0, 4, np.dtype(np.float16))


def harmed(name: str, value: np.ndarray | None) -> dict[str, np.ndarray]:
    tensors = pair(8, 6) | ({} if value is None else {name: value})
    return {n: t for n, t in tensors.items() if value is not None or n != name}


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (harmed("w.weight_scale_inv", None), "has no 'w.weight_scale_inv'"),
        (harmed("w.weight", None), "has no 'w.weight'"),
        (harmed("w.weight_scale_inv", np.ones((2, 3), np.float32)), "has shape [2, 3], but [2, 2] is needed"),
        (harmed("w.weight_scale_inv", np.ones((2, 2), np.int8)), "'w.weight_scale_inv' is I8"),
        (harmed("w.weight", np.ones((8, 6), np.float32)), "'w.weight' is F32"),
        (harmed("w.weight", np.ones((8, 6), ml_dtypes.float8_e5m2)), "'w.weight' is F8_E5M2"),
        (harmed("w.weight", np.ones((1, 8, 6), E4M3)), "'w.weight' has shape [1, 8, 6], but two dimensions is needed"),
    ],
)
def test_what_does_not_pair_is_refused(tmp_path: Path, tensors: dict[str, np.ndarray], says: str) -> None:
    assert refusal(tmp_path, tensors, FP8, says)


@pytest.mark.parametrize(
    "change",
    [{"fmt": "e5m2"}, {"weight_block_size": None}, {"weight_block_size": [128]}, {"weight_block_size": [0, 4]}],
)
def test_other_forms_of_fp8_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    assert refusal(tmp_path, pair(8, 6), FP8 | change, "quantization_config")


def refusal(folder: Path, tensors: dict[str, np.ndarray], quantization: Any, says: str) -> Quantized | str:
    """The hint that the refusal ends with."""
    with pytest.raises(FamilyError) as refused:
        format_of(write(folder, tensors, quantization))
    assert says in refused.value.message
    return refused.value.hint
