"""From one float type to another, once, and never silently to infinity."""

from __future__ import annotations

from functools import cache

import ml_dtypes
import numpy as np

from porter.errors import FamilyError

STRIP = 1 << 17  # numbers that are worked on at once, so that they stay in the cache of a core


def cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """The array at `dtype`, contiguous; `name` is the tensor's, for the error.

    Raises FamilyError when a value does not fit the dtype: a weight silently become infinite is a broken model.
    """
    if array.dtype == dtype:
        return np.ascontiguousarray(array)
    result = np.empty(array.shape, dtype)
    flat, to = np.ascontiguousarray(array).reshape(-1), result.reshape(-1)
    for begin in range(0, flat.size, STRIP):
        cast_into(to[begin : begin + STRIP], flat[begin : begin + STRIP], name)
    return result


def cast_into(out: np.ndarray, array: np.ndarray, name: str) -> None:
    """The same for one strip, into the place where it is wanted."""
    peak = _peak(array) if largest(out.dtype) < largest(array.dtype) and array.size else 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        if array.dtype.itemsize == 2 and np.float16 in (array.dtype, out.dtype):
            # numpy and ml_dtypes go number by number here, and there are no more than 65536 of them
            table = _table(array.dtype, out.dtype)
            np.take(table, array.view(np.uint16), out=out.view(table.dtype), mode="clip")
        elif out.dtype == np.float16 and array.dtype == np.float32 and peak <= largest(out.dtype):
            _halve(out, array)
        else:
            np.copyto(out, array, casting="unsafe")
        if not peak <= largest(out.dtype):  # larger, or not a number
            _refuse_overflow(out, array, name)


def _peak(array: np.ndarray) -> float:
    """The largest magnitude, or what is no number."""
    if array.dtype.itemsize > 2:
        return float(max(array.max(), -array.min()))
    return float((array.view(np.uint16) & 0x7FFF).max().view(array.dtype))  # without their signs, bits sort as numbers


def _halve(out: np.ndarray, array: np.ndarray) -> None:
    """float32 to float16 by its bits, to the nearest and of two to the even one: numpy takes twice as long.

    For magnitudes up to the largest of float16.
    """
    bits = array.view(np.uint32)
    magnitude = bits & 0x7FFFFFFF
    # Below 2^-14 steps are 2^-24 wide, as they are in float32 above 0.5: adding that rounds, and leaves them as bits.
    small = (magnitude.view(np.float32) + np.float32(0.5)).view(np.uint32) - np.uint32(0x3F000000)
    # Above, the exponent counts from 15 instead of 127 and 13 bits are rounded away.
    normal = magnitude >> 13
    normal &= 1
    normal += magnitude
    normal += np.uint32(0xFFF - (112 << 23) & 0xFFFFFFFF)
    normal >>= 13
    np.copyto(normal, small, where=magnitude < 0x38800000)
    normal |= (bits >> 16) & 0x8000
    np.copyto(out.view(np.uint16), normal, casting="unsafe")


@cache
def _table(source: np.dtype, target: np.dtype) -> np.ndarray:
    """What each number of 16 bits becomes, as bits."""
    numbers = np.arange(65536, dtype=np.uint16).view(source).astype(np.float32)  # exact
    return numbers.astype(target).view(f"u{target.itemsize}")


@cache
def largest(dtype: np.dtype) -> float:
    """The largest finite number of a float type."""
    return float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]  # ml_dtypes says no types here


def _refuse_overflow(out: np.ndarray, array: np.ndarray, name: str) -> None:
    """Raises FamilyError, unless what became infinite was so before, or not a number, or rounds to the largest."""
    grown = ~np.isfinite(out) & np.isfinite(array)
    if grown.any():
        peak = float(np.abs(array[grown].astype(np.float64)).max())
        raise FamilyError(
            f"tensor '{name}' holds {peak:.3g}, which {out.dtype.name} cannot",
            "use --dtype float32 or --dtype bfloat16",
        )
