"""How an error grows: its slope over positions on doubly logarithmic paper, port beside original, and the verdict.

The line is Theil's and Sen's (1968), the median slope of all pairs of points, which a few wild points do not turn. It
goes through the logarithm of the port's error over the original's at the same positions of the same texts, so that what
is hard for both cancels. The interval is the paired bootstrap's over texts, as in `intervals`.
"""

from __future__ import annotations

import numpy as np

from porter.verify.intervals import NOT_FINITE, RESAMPLES, SEED, TAILS, Pair
from porter.verify.report import Check, Measured, Status


@np.errstate(all="ignore")  # what is no number is found, not warned of
def judge_slope(name: str, pair: Pair, positions: np.ndarray, limit: float) -> Check:
    """By which power of the position [points] the port's error outgrows the original's; the pair are the logarithms of
    errors [texts, points].
    """
    if not np.isfinite(pair.own).all():
        return Check(name, 0.0, limit, "inconclusive", NOT_FINITE)
    if not np.isfinite(pair.port).all():
        return Check(name, float("inf"), limit, "fail", "the port gives values that are not finite")
    texts, at = len(pair.port), np.log(positions)
    drawn = np.random.default_rng(SEED).integers(0, texts, (RESAMPLES, texts))
    drawn = np.concatenate([np.arange(texts)[None], drawn])  # the texts as they are come first
    ports, owns = (side[drawn].mean(axis=1) for side in (pair.port, pair.own))
    excess, port, own = (theil_sen(at, values) for values in (ports - owns, ports, owns))  # [drawings, points] each
    low, high = np.percentile(excess[1:], TAILS, method="nearest").tolist()
    measured = Measured(float(port[0]), float(port[1:].std()), float(own[0]), float(own[1:].std()), (low, high))
    status, detail = _verdict(low, high, limit, texts)
    return Check(name, float(excess[0]), limit, status, detail, measured)


def theil_sen(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The median slope of all pairs of points: x [points], y [..., points] → [...]."""
    first, second = np.triu_indices(len(x), 1)
    return np.asarray(np.median((y[..., second] - y[..., first]) / (x[second] - x[first]), axis=-1))


def _verdict(low: float, high: float, limit: float, texts: int) -> tuple[Status, str]:
    if high <= limit:
        return "pass", ""
    if low > limit:
        return "fail", ""
    return "inconclusive", f"{texts} texts leave the slope between {low:.3g} and {high:.3g}"
