"""Casts: bit for bit those of numpy and ml_dtypes, over every number of 16 bits, and never silently to infinity."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from porter import cast as casting
from porter.cast import cast
from porter.errors import FamilyError

BF16, F16, F32, F64 = map(np.dtype, (ml_dtypes.bfloat16, np.float16, np.float32, np.float64))
BITS = {2: np.dtype(np.uint16), 4: np.dtype(np.uint32), 8: np.dtype(np.uint64)}
ALL = np.arange(65536, dtype=np.uint16)


BELOW, BEYOND = float.fromhex("0x1.fefffep127"), float.fromhex("0x1.ffp127")  # half way to where bfloat16 ends


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(BITS[array.dtype.itemsize])


def floats() -> np.ndarray:
    """Random bits, and what lies on and beside every boundary: subnormal, half way, largest, infinite, NaN."""
    rng = np.random.default_rng(0)
    edges = [0, 1, 2**23 - 1, 2**23, 0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF]
    edges += [n << 16 | low for n in range(0, 0x8000, 97) for low in (0x7FFF, 0x8000, 0x8001)]
    positive = np.append(np.array(edges, np.uint32), rng.integers(0, 2**31, 300_000, np.uint32))
    return np.append(positive, positive | np.uint32(2**31)).view(np.float32)


def plain(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numpy's and ml_dtypes' own, through float32 where it is exact."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        return (array if array.dtype.itemsize > 2 else array.astype(np.float32)).astype(dtype)


def fitting(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Without the numbers that the dtype cannot hold."""
    with np.errstate(invalid="ignore"):
        return array[np.isfinite(plain(array, dtype)) | ~np.isfinite(array)]


@pytest.mark.parametrize("stored", [F16, BF16])
@pytest.mark.parametrize("wanted", [F16, BF16, F32])
def test_every_number_of_16_bits(stored: np.dtype, wanted: np.dtype) -> None:
    array = fitting(ALL.view(stored), wanted)
    assert array.size > 30_000
    np.testing.assert_array_equal(bits(cast(array, wanted, "w")), bits(plain(array, wanted)))


@pytest.mark.parametrize("wanted", [F16, BF16])
@pytest.mark.parametrize("stored", [F32, F64])
def test_wider_numbers(stored: np.dtype, wanted: np.dtype) -> None:
    array = fitting(plain(floats(), stored), wanted)
    np.testing.assert_array_equal(bits(cast(array, wanted, "w")), bits(plain(array, wanted)))


def test_ties_go_to_the_even_number() -> None:
    halves = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-23], np.float32)
    assert cast(halves, BF16, "w").astype(float).tolist() == [1, 1 + 2**-6, -1, 1 + 2**-7]


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
def test_what_has_the_dtype_stays_as_it_is(dtype: np.dtype) -> None:
    array = np.ones((3, 4), dtype)
    assert cast(array, dtype, "w") is array
    turned = cast(array.T, dtype, "w")
    assert turned.flags.c_contiguous


@pytest.mark.parametrize("stored", [F64, F32, BF16])
@pytest.mark.parametrize("place", [0, 7, 99])
def test_one_number_that_does_not_fit_is_found(stored: np.dtype, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(casting, "STRIP", 8)
    array = np.zeros((10, 10), stored)
    array.reshape(-1)[place] = -(2.0**20)
    with pytest.raises(FamilyError, match=r"'w' holds 1\.05e\+06, which float16 cannot"):
        cast(array, F16, "w")


@pytest.mark.parametrize(
    ("stored", "wanted", "largest", "beyond"),
    [(F32, F16, 65519.996, 65520.0), (BF16, F16, 65280.0, 65536.0), (F32, BF16, BELOW, BEYOND)],
)
def test_what_rounds_to_the_largest_number_fits(
    stored: np.dtype, wanted: np.dtype, largest: float, beyond: float
) -> None:
    assert np.isfinite(cast(np.array([largest, -largest], stored), wanted, "w")).all()
    with pytest.raises(FamilyError, match=r"which .* cannot"):
        cast(np.array([0, -beyond], stored), wanted, "w")


@pytest.mark.parametrize("stored", [F64, F32, BF16])
def test_infinities_and_what_is_no_number_stay(stored: np.dtype) -> None:
    array = np.array([np.inf, -np.inf, np.nan, 1.0], stored)
    np.testing.assert_array_equal(cast(array, F16, "w"), [np.inf, -np.inf, np.nan, 1.0])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (5, 7)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    array = np.full(shape, 0.5, np.float32)
    np.testing.assert_array_equal(cast(array, BF16, "w").astype(np.float32), array)


@pytest.mark.parametrize("strip", [1, 3, 64])
def test_strips_make_no_difference(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(casting, "STRIP", strip)
    array = np.random.default_rng(1).standard_normal((9, 7)).astype(np.float32)[:, ::2]
    np.testing.assert_array_equal(bits(cast(array, BF16, "w")), bits(array.astype(BF16)))
