"""Level three: the port at the dtype that is deployed, beside the original at that dtype, both against float64.

A narrow dtype hides mistakes: five of eight that semantics finds stay within twice the original's own bfloat16 error.
What shows here is what semantics, which widens, cannot see: a place where the port rounds and the original does not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from porter.verify import findings
from porter.verify.benchmark import Benchmark
from porter.verify.intervals import judge, root_mean
from porter.verify.report import Check, Level

# Times the original's own error. Sound ports of twelve checkpoints reach 0.80 to 1.03 in logits, their intervals 1.07;
# with the statistics of the norms in the narrow dtype it is 1.19 to 1.34.
LOGITS_LIMIT = 1.2
PLACE_LIMIT = 1.5  # at one place inside, where a single rounding more than the original's makes up to √2
WORST = ("fail", "inconclusive", "pass")


def check_dtype(found: Benchmark, dtype: str) -> Level:
    """One check for each quantity, at the place where it is worst."""
    quantities = dict.fromkeys(quantity for quantity, _ in found.squares)
    return Level("dtype", tuple(_worst(found, quantity, _limit(quantity, dtype)) for quantity in quantities))


def _limit(quantity: str, dtype: str) -> float:
    if dtype == "float32":  # where the order of a sum counts as much as any rounding: semantics has the limit for that
        return findings.LIMIT
    return LOGITS_LIMIT if quantity == "logits" else PLACE_LIMIT


def _worst(found: Benchmark, quantity: str, limit: float) -> Check:
    checks = []
    for (name, place), sides in found.squares.items():
        if name == quantity:
            floor = findings.FLOOR * float(np.sqrt(np.mean(found.sizes[name, place])))
            check = judge(quantity, sides.pair(), root_mean, limit, floor)
            where = f"worst at {place}" if place else ""
            checks.append(replace(check, detail="; ".join(filter(None, (where, check.detail)))))
    return min(checks, key=lambda check: (WORST.index(check.status), -check.value))
