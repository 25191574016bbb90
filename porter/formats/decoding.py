"""Codes and scales multiplied out: one product in float32, one rounding to the dtype that is wanted."""

from __future__ import annotations

from functools import cache

import ml_dtypes
import numpy as np

from porter.cast import STRIP, cast_into
from porter.formats.packed import Codes

FP8 = np.dtype(ml_dtypes.float8_e4m3fn)


def decode(codes: Codes, dtype: np.dtype, name: str) -> np.ndarray:
    """The rows at `dtype`; `name` is the weight's, for the error.

    Raises FamilyError when a value does not fit the dtype.
    """
    rows, columns = codes.values.shape
    result = np.empty((rows, columns), dtype)
    step = max(1, min(rows, STRIP // max(1, columns)))
    wide = np.empty((step, columns), np.float32)  # stays in the cache from the first operation to the last
    for begin in range(0, rows, step):
        strip = slice(begin, min(begin + step, rows))
        part = result[strip] if dtype == np.float32 else wide[: strip.stop - begin]
        _widen(codes.values[strip], part)
        _scale(part, codes, strip)
        if dtype != np.float32:
            cast_into(result[strip], part, name)
    return result


def _widen(values: np.ndarray, out: np.ndarray) -> None:
    if values.dtype != FP8:
        np.copyto(out, values)
        return
    numbers, pairs = _tables()
    flat, to = np.ascontiguousarray(values).reshape(-1).view(np.uint8), out.reshape(-1)
    even = flat.size // 2 * 2
    np.take(pairs, flat[:even].view(np.uint16), out=to[:even].view(np.uint64), mode="clip")  # "raise" would buffer
    to[even:] = numbers[flat[even:]]


def _scale(part: np.ndarray, codes: Codes, strip: slice) -> None:
    scales, zeros = codes.scales[strip], None if codes.zeros is None else codes.zeros[strip].astype(np.float32)
    if codes.order is not None:
        if zeros is not None:
            part -= np.take(zeros, codes.order, axis=1)
        part *= np.take(scales, codes.order, axis=1)
        return
    rows, columns = part.shape
    whole = columns // codes.group
    for one, groups in (
        (part[:, : whole * codes.group].reshape(rows, whole, codes.group), slice(0, whole)),
        (part[:, whole * codes.group :].reshape(rows, -1, columns % codes.group or 1), slice(whole, None)),
    ):
        if one.size:
            assert np.shares_memory(one, part), "a view: what is done to it is done to the weight"
            if zeros is not None:
                one -= zeros[:, groups, None]
            one *= scales[:, groups, None]


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the 256 codes, and of every two codes that lie side by side: looked up two at a time."""
    numbers = np.arange(256, dtype=np.uint8).view(FP8).astype(np.float32)
    pairs = numbers[np.arange(65536, dtype=np.uint16).view(np.uint8)]
    return numbers, pairs.view(np.uint64)
