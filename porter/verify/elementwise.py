"""How far single numbers are off: what is summed up of one prompt, so that any choice of prompts can be put together.

The measures are those of a dual benchmark: the error as such, relative to the number where that is not small, by itself
where it is, and whether it leans to one side. Small is said of the size that numbers have in their place: what a layer
gives has no unit of its own, so the root mean square of the exact numbers is the unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rule:
    """Of a dtype, in units of the place: below `small` a number has no relative error, and an error of `nothing` is as
    good as none there.
    """

    small: float
    nothing: float


# Huawei's dual benchmark for single operators (msprobe) has these bounds; there the unit is one.
RULES = {
    "float16": Rule(2.0**-11, 2.0**-16),
    "bfloat16": Rule(2.0**-8, 2.0**-16),
    "float32": Rule(2.0**-14, 2.0**-30),
}


def measure(values: np.ndarray, exact: np.ndarray, rule: Rule) -> dict[str, np.ndarray]:
    """What values [N, M] of N prompts are off from the exact ones: of each measure [N, 2] a sum and a count, so that
    their quotient over any prompts is the measure's.

    `square` the squared error; `relative` to the number, where it is not small, and `largest` [N, 1] of these; `small`
    the squared error in units of the place where the number is small; `upward` the sign of the error; `outward` its
    sign away from zero.
    """
    error = values.astype(np.float64) - exact
    size, away = np.abs(exact), np.abs(error)
    unit = np.sqrt(np.mean(exact**2, axis=1, keepdims=True))
    large = (size >= rule.small * unit) & (size > 0)
    relative = np.divide(away, size, out=np.zeros_like(away), where=large)
    inside = np.divide(error, unit, out=np.zeros_like(error), where=~large & (unit > 0)) ** 2
    sign, every = np.sign(error), np.full(len(exact), exact.shape[1])
    return {
        "square": _pairs((error**2).sum(axis=1), every),
        "relative": _pairs(relative.sum(axis=1), large.sum(axis=1)),
        "largest": relative.max(axis=1, keepdims=True),
        "small": _pairs(inside.sum(axis=1), (~large).sum(axis=1)),
        "upward": _pairs(sign.sum(axis=1), every),
        "outward": _pairs((sign * np.sign(exact)).sum(axis=1), every),
    }


def strange(values: np.ndarray, own: np.ndarray) -> int:
    """How many of the port's values are infinite or no number where the original's own are finite, or another such."""
    odd = ~np.isfinite(values)
    same = (values == own) | (np.isnan(values) & np.isnan(own))
    return int((odd & ~same).sum())


def _pairs(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.stack([sums, counts], axis=1).astype(np.float64)
