"""Codes and scales multiplied out: one product in float32, one rounding to the dtype that is wanted."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from porter.cast import STRIP, cast_into
from porter.formats.packed import Codes

FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
SIGN_AND_NUMBER = np.array(0x87F00000, np.uint32).view(np.int32)
LIFT = np.float32(2.0**120)  # exponents of float8_e4m3fn count from 7, of float32 from 127
MOST_TO_LIFT = 2.0**7  # a scale that times LIFT is still a float32


def decode(codes: Codes, dtype: np.dtype, name: str) -> np.ndarray:
    """The rows at `dtype`; `name` is the weight's, for the error.

    Raises FamilyError when a value does not fit the dtype.
    """
    rows, columns = codes.values.shape
    result = np.empty((rows, columns), dtype)
    step = max(1, min(rows, STRIP // max(1, columns)))
    wide = np.empty((step, columns), np.float32)  # stays in the cache from the first operation to the last
    lift = codes.values.dtype == FP8 and codes.zeros is None and bool(np.all(np.abs(codes.scales) < MOST_TO_LIFT))
    for begin in range(0, rows, step):
        strip = slice(begin, min(begin + step, rows))
        part = result[strip] if dtype == np.float32 else wide[: strip.stop - begin]
        lifted = _widen(codes.values[strip], part, lift)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite stays so, for the cast to judge
            _scale(part, codes.scales[strip] * lifted, codes, strip)
        if dtype != np.float32:
            cast_into(result[strip], part, name)
    return result


def _widen(values: np.ndarray, out: np.ndarray, lift: bool) -> np.float32:
    """Writes the numbers that codes mean into `out`, but for a factor, a power of two, that is given back.

    With `lift`, they are FP8: its bits are those of a float32 once they stand in their place, only the exponent counts
    from elsewhere. That is exact, for subnormal numbers too, and so is a scale times the factor.
    """
    if not lift or ((values.view(np.uint8) & 0x7F) == 0x7F).any():  # what is no number is spelt otherwise in float32
        np.copyto(out, values, casting="unsafe")
        return np.float32(1)
    bits = out.view(np.int32)
    np.copyto(bits, values.view(np.int8))  # which carries the sign to the left end
    np.left_shift(bits, 20, out=bits)
    np.bitwise_and(bits, SIGN_AND_NUMBER, out=bits)
    return LIFT


def _scale(part: np.ndarray, scales: np.ndarray, codes: Codes, strip: slice) -> None:
    zeros = None if codes.zeros is None else codes.zeros[strip].astype(np.float32)
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
