"""A ratio of two errors with what is known of it: its interval over prompts, and the verdict that this allows.

The interval is the paired bootstrap's (Efron 1979): the prompts are drawn anew, with replacement, a thousand times, the
same ones for port and original. A ratio passes when its whole interval is within the limit and fails when its whole
interval is beyond; else the prompts do not decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from porter.verify.report import Check, Measured, Status

SEED = 20250127
RESAMPLES = 1000
WORST = ("fail", "inconclusive", "pass")
TAILS = (2.5, 97.5)  # percent: an interval that holds the true ratio 95 times in 100

NOT_FINITE = "the original gives values that are not finite at this dtype: take a wider --dtype"

Statistic = Callable[[np.ndarray], np.ndarray]  # [..., prompts, values of each] → [...]


@dataclass(frozen=True)
class Pair:
    """What was measured on port and original, prompt by prompt."""

    port: np.ndarray  # [prompts, values of each]
    own: np.ndarray  # the same shape


@dataclass
class Sides:
    """The same, as it comes in batch by batch."""

    port: list[np.ndarray] = field(default_factory=list)
    own: list[np.ndarray] = field(default_factory=list)

    def add(self, port: np.ndarray, own: np.ndarray) -> None:
        """Takes in the next prompts."""
        self.port.append(port)
        self.own.append(own)

    def pair(self) -> Pair:
        """Over all prompts."""
        return Pair(np.concatenate(self.port), np.concatenate(self.own))


def mean(values: np.ndarray) -> np.ndarray:
    """Over prompts and their values."""
    return np.asarray(values.mean(axis=(-2, -1)))


def root_mean(values: np.ndarray) -> np.ndarray:
    """The root of the mean, of what is squared already."""
    return np.sqrt(mean(values))


def pooled(values: np.ndarray) -> np.ndarray:
    """Of a sum and a count for each prompt [..., prompts, 2]: all sums over all counts, nothing where none counts."""
    sums = values.sum(axis=-2)
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))


def root_pooled(values: np.ndarray) -> np.ndarray:
    """The root of that, of what is squared already."""
    return np.sqrt(pooled(values))


def size_pooled(values: np.ndarray) -> np.ndarray:
    """That without its sign."""
    return np.abs(pooled(values))


def percentile(percent: float) -> Statistic:
    """The value below which so many lie: one that was measured, never one between two."""

    def statistic(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(*values.shape[:-2], -1)
        return np.asarray(np.percentile(flat, percent, axis=-1, method="nearest"))

    return statistic


@np.errstate(all="ignore")  # what is no number is found, not warned of
def judge(name: str, pair: Pair, statistic: Statistic, limit: float | None, floor: float) -> Check:
    """The port's statistic over the original's own, within its limit or not; without one the port's is told.

    `floor` is added to both: an error that small is as good as none.
    """
    if not np.isfinite(pair.own).all():
        return Check(name, 0.0, limit, "inconclusive", NOT_FINITE)
    if not np.isfinite(pair.port).all():
        return Check(name, float("inf"), limit, "fail", "the port gives values that are not finite")
    port, own = float(statistic(pair.port)), float(statistic(pair.own))
    drawn = np.random.default_rng(SEED).integers(0, len(pair.port), (RESAMPLES, len(pair.port)))
    ports, owns = statistic(pair.port[drawn]), statistic(pair.own[drawn])
    figures = port, float(ports.std()), own, float(owns.std())
    if limit is None:
        return Check(name, port, None, "measured", measured=Measured(*figures, None))
    low, high = np.percentile((ports + floor) / (owns + floor), TAILS, method="nearest").tolist()
    status, detail = _verdict(low, high, limit, len(pair.port))
    return Check(name, (port + floor) / (own + floor), limit, status, detail, Measured(*figures, (low, high)))


def worst_of(checks: Mapping[str, Check]) -> Check:
    """Of one quantity, by its places: the check that is furthest from passing, with its place told."""
    place, worst = min(checks.items(), key=lambda one: (WORST.index(one[1].status), -one[1].value))
    where = f"worst at {place}" if place else ""
    return replace(worst, detail="; ".join(filter(None, (where, worst.detail))))


def _verdict(low: float, high: float, limit: float, prompts: int) -> tuple[Status, str]:
    if high <= limit:
        return "pass", ""
    if low > limit:
        return "fail", ""
    detail = f"{prompts} prompts leave the ratio between {low:.3g} and {high:.3g}"
    return "inconclusive", f"{detail}: the figures are yours to judge, or take a wider --dtype"
