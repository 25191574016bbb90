"""Level three: the port at the dtype that is deployed, beside the original at that dtype, both against float64.

A narrow dtype hides mistakes: five of eight that semantics finds stay within twice the original's own bfloat16 error.
What shows here is what semantics, which widens, cannot see: a place where the port rounds and the original does not.

Each measure of single numbers is a ratio to the original's own. Its limit stands so far above what sound ports reach
that dozens of checks, each at the worst of many places, do not add up to false alarms; and no limit is tighter than
what the original itself reaches when it is computed otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from porter.verify import findings
from porter.verify.benchmark import Benchmark, Errors, Key
from porter.verify.intervals import Pair, Statistic, judge, percentile, pooled, root_pooled, size_pooled, worst_of
from porter.verify.report import Check, ErrorAt, Figures, Level

# Times the original's own. In brackets what sound ports reach in float16 and bfloat16, and the ends of their intervals:
# 66 random tiny models of every family, and deepseek-v3-tiny on text. With the statistics of the norms in the narrow
# dtype the error of logits is 1.19 to 1.34.
LOGITS_LIMIT = 1.2  # the error (1.02, 1.07), and relative to the number (1.03, 1.09)
PLACE_LIMIT = 1.5  # at one place inside (1.20, 1.23), where a single rounding more than the original's makes up to √2
PLACE_RELATIVE_LIMIT = 2.0  # (1.21, 1.39), where what is barely not small weighs most
LARGEST_LIMIT = 5.0  # of one number among all logits (1.98, 2.39)
PLACE_LARGEST_LIMIT = 10.0  # of one at a place (4.45, 4.66)
SMALL_LIMIT = 2.0  # of the few numbers that are small (1.28, 1.93)
BIAS_LIMIT = 2.0  # (1.44, 1.75)
BIAS_FLOOR = 0.1  # of all errors, more on one side than on the other: as good as none
FEWEST = 200  # small numbers: fewer say little of a ratio


@dataclass(frozen=True)
class Measure:
    """One number made of what was measured of single numbers, and what a port may reach: in logits, and at a place."""

    suffix: str
    name: str
    statistic: Statistic
    limits: tuple[float, float]


def measures() -> tuple[Measure, ...]:
    """In the order in which they are told."""
    usual = LOGITS_LIMIT, PLACE_LIMIT
    return (
        Measure("", "square", root_pooled, usual),
        Measure(", relative", "relative", pooled, (LOGITS_LIMIT, PLACE_RELATIVE_LIMIT)),
        Measure(", largest relative", "largest", percentile(100), (LARGEST_LIMIT, PLACE_LARGEST_LIMIT)),
        Measure(", upward", "upward", size_pooled, (BIAS_LIMIT,) * 2),
        Measure(", outward", "outward", size_pooled, (BIAS_LIMIT,) * 2),
    )


SMALL = Measure(", small numbers", "small", root_pooled, (SMALL_LIMIT,) * 2)


def check_dtype(found: Benchmark, dtype: str) -> Level:
    """Each measure of each quantity, at the place where it is worst; the same quantities on the original's routes;
    then the noise floor.
    """
    variants = list(found.variants.values())
    checks = [_strange(found)]
    for quantity in found.errors.quantities():
        checks += [_worst(found.errors, quantity, measure, dtype, variants) for measure in measures()]
        checks.append(_small(found.errors, quantity, dtype))
    for quantity in found.led.quantities():
        led = _worst(found.led, quantity, measures()[0], dtype, variants)
        checks.append(replace(led, name=f"routes forced: {led.name}"))
    checks += [_floor(name, errors) for name, errors in found.variants.items()]
    errors = tuple(_figures(found.errors, "prompts", dtype)) + tuple(_figures(found.led, "routes forced", dtype))
    return Level("dtype", tuple(checks), Figures(errors=errors))


def _strange(found: Benchmark) -> Check:
    """Infinities and values that are no number, which the original does not give."""
    where = {key: count for key, count in found.strange.items() if count}
    detail = ", ".join(f"{count} in {' '.join(key).strip()}" for key, count in list(where.items())[:3])
    return Check.at_most("values not finite", sum(where.values()), 0, detail)


def _limit(measure: Measure, quantity: str, dtype: str) -> float:
    narrow = measure.limits[0 if quantity == "logits" else 1]
    if dtype == "float32":  # where the order of a sum counts as much as any rounding: semantics has the limit for that
        return findings.LIMIT * max(narrow / SMALL_LIMIT, 1.0)
    return narrow


def _worst(errors: Errors, quantity: str, measure: Measure, dtype: str, variants: list[Errors]) -> Check:
    checks = {}
    for place in errors.places(quantity):
        key = quantity, place
        limit = max([_limit(measure, quantity, dtype), *(_reached(variant, key, measure) for variant in variants)])
        sides = errors.found[key][measure.name].pair()
        name, nothing = quantity + measure.suffix, _nothing(errors, key, measure)
        checks[place] = judge(name, sides, measure.statistic, limit, nothing)
    return worst_of(checks)


def _nothing(errors: Errors, key: Key, measure: Measure) -> float:
    """An error of a measure that is as good as none."""
    if measure.name in ("upward", "outward"):
        return BIAS_FLOOR
    return findings.FLOOR * (errors.size(key) if measure.name == "square" else 1.0)


def _reached(variant: Errors, key: Key, measure: Measure) -> float:
    """What the original otherwise reaches of it, times its own; 0 where it gives no numbers."""
    pair, floor = variant.found[key][measure.name].pair(), _nothing(variant, key, measure)
    with np.errstate(all="ignore"):
        ratio = (measure.statistic(pair.port) + floor) / (measure.statistic(pair.own) + floor)
    return float(ratio) if np.isfinite(ratio) else 0.0


def _small(errors: Errors, quantity: str, dtype: str) -> Check:
    """Of all places together: few numbers are small."""
    pairs = [errors.found[quantity, place][SMALL.name].pair() for place in errors.places(quantity)]
    pair = Pair(np.sum([p.port for p in pairs], axis=0), np.sum([p.own for p in pairs], axis=0))
    count, floor = int(pair.own[:, 1].sum()), errors.rule.nothing
    if count < FEWEST:
        told = judge(quantity + SMALL.suffix, pair, SMALL.statistic, None, floor)
        return replace(told, detail=f"only {count} numbers are small: told, not judged")
    return judge(quantity + SMALL.suffix, pair, SMALL.statistic, _limit(SMALL, quantity, dtype), floor)


def _floor(name: str, errors: Errors) -> Check:
    """The largest error of the original otherwise, times its own."""
    ratios = {key: _reached(errors, key, measures()[0]) for key in errors.found}
    worst = max(ratios, key=ratios.__getitem__)
    return Check(f"noise floor: {name}", ratios[worst], None, "measured", f"largest in {' '.join(worst).strip()}")


def _figures(errors: Errors, scenario: str, dtype: str) -> Iterator[ErrorAt]:
    root = measures()[0]
    for key in errors.found:
        quantity, place = key
        layer = re.match(r"\d+", place)
        pair = errors.found[key][root.name].pair()
        with np.errstate(all="ignore"):
            port, own = float(root.statistic(pair.port)), float(root.statistic(pair.own))
            floor = _nothing(errors, key, root)
            ratio = float((np.float64(port) + floor) / (own + floor))
        number = int(layer[0]) if layer else None
        limit = _limit(root, quantity, dtype)
        yield ErrorAt("dtype", scenario, quantity, place, number, port, own, ratio, limit)
