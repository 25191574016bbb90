"""Level four: what a user meets, the distribution over the next token, beside the original's at the same dtype.

Each measure is a ratio to what the original itself loses at the dtype, over the original's own words. What the port is
off from the checkpoint's original in float64, on its own routes and with its own weights, is told and not judged: the
choice of a dtype or of a quantization is the user's, and the price is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from porter.verify import findings
from porter.verify.benchmark import Benchmark
from porter.verify.intervals import Pair, Sides, Statistic, judge, mean, percentile, root_mean
from porter.verify.report import Check, Figures, Level

NARROW_LIMIT = 2.0  # times the original's own: a measure of single tokens is rougher than one of all numbers
COUNT_LIMIT = 4.0  # of what is counted in few tokens
FEW = 4.0  # times the usual limit of a divergence, where one or two tokens decide it
ONE_EACH = 1.5  # times the usual limit, where a prompt gives one number
ADDED = 2.0  # to each count, so that none against one is no infinity (Agresti and Coull 1998)
FLOOR = 2.0**-50  # of divergences: the rounding of float64 in the sum


@dataclass(frozen=True)
class Measure:
    """A number made of what was measured token by token.

    `order` is the power of the error with which it grows: 0 for what is counted, None for what is told and not judged.
    """

    name: str
    tokens: str
    statistic: Statistic
    order: int | None
    prepare: Callable[[np.ndarray], np.ndarray] = np.asarray
    floor: float = FLOOR
    rough: float = 1.0  # so many times the usual limit, for what few tokens decide


def _squared(values: np.ndarray) -> np.ndarray:
    return values**2


def _squared_by_prompt(values: np.ndarray) -> np.ndarray:
    """Of the logarithm of a prompt's perplexity."""
    return values.mean(axis=-1, keepdims=True) ** 2


def _growth(values: np.ndarray) -> np.ndarray:
    return np.exp(mean(values))


JUDGED = (
    Measure("KL mean", "divergence", mean, 2),
    Measure("KL median", "divergence", percentile(50), 2),
    Measure("KL 90 %", "divergence", percentile(90), 2),
    Measure("KL 99 %", "divergence", percentile(99), 2),
    Measure("KL 99.9 %", "divergence", percentile(99.9), 2, rough=FEW),
    Measure("probability change", "change", root_mean, 1, _squared),
    Measure("perplexity change", "surprise", root_mean, 1, _squared_by_prompt, rough=ONE_EACH),
    Measure("first choice changed", "choice", mean, 0),
)
TOLD = (
    Measure("KL mean", "divergence", mean, None),
    Measure("KL 99 %", "divergence", percentile(99), None),
    Measure("KL 99.9 %", "divergence", percentile(99.9), None),
    Measure("KL largest", "divergence", percentile(100), None),
    Measure("probability change", "change", root_mean, None, _squared),
    Measure("first choice changed", "choice", mean, None),
    Measure("top-1 agreement", "agreement", mean, None),
    Measure("perplexity", "loss", _growth, None),
    Measure("perplexity ratio", "surprise", _growth, None),
)


def check_distribution(found: Benchmark, dtype: str) -> Level:
    """The measures of the level, routes among them where there are routers; then the cost."""
    checks = [_judge(measure, found.tokens, dtype) for measure in JUDGED]
    if found.choices.places:
        checks.append(found.choices.check())
    told = [*(_judge(measure, found.cost, dtype) for measure in TOLD), *found.experts.checks()]
    told = [replace(check, name=f"cost: {check.name}") for check in told]
    return Level("distribution", (*checks, *told), Figures(experts=found.experts.figures()))


def _judge(measure: Measure, tokens: Mapping[str, Sides], dtype: str) -> Check:
    pair = tokens[measure.tokens].pair()
    floor = ADDED / pair.own.size if measure.order == 0 else measure.floor
    prepared = Pair(measure.prepare(pair.port), measure.prepare(pair.own))
    return judge(measure.name, prepared, measure.statistic, _limit(measure, dtype), floor)


def _limit(measure: Measure, dtype: str) -> float | None:
    if measure.order is None:
        return None
    error = findings.LIMIT if dtype == "float32" else NARROW_LIMIT
    return measure.rough * error**measure.order if measure.order else COUNT_LIMIT
