"""Level three: the port at the dtype that is deployed, beside the original at that dtype, both against float64.

A narrow dtype hides mistakes: five of eight that semantics finds are within twice the original's own bfloat16 error. What
shows here is what semantics cannot see, because it widens: a place where the port rounds and the original does not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from porter.verify import semantics
from porter.verify.benchmark import Benchmark
from porter.verify.intervals import judge, root_mean
from porter.verify.report import Check, Level

# Times the original's own error. Measured with routes followed, sound ports of eleven checkpoints reach 0.83 to 1.03 and
# the ends of their intervals 1.1; the statistics of the norms in float16, 1.29 and more. Ascend's own standard asks
# for 1.2 of its matrix products and norms.
NARROW_LIMIT = 1.2
WORST = ("fail", "inconclusive", "pass")


def check_dtype(found: Benchmark, dtype: str) -> Level:
    """One check for each quantity, at the place where it is worst."""
    # In float32 the order of a sum counts as much as any rounding, and semantics has found the limit for that.
    limit = semantics.LIMIT if dtype == "float32" else NARROW_LIMIT
    quantities = dict.fromkeys(quantity for quantity, _ in found.squares)
    return Level("dtype", tuple(_worst(found, quantity, limit) for quantity in quantities))


def _worst(found: Benchmark, quantity: str, limit: float) -> Check:
    checks = []
    for (name, place), sides in found.squares.items():
        if name == quantity:
            floor = semantics.FLOOR * float(np.sqrt(np.mean(found.sizes[name, place])))
            check = judge(quantity, sides.pair(), root_mean, limit, floor)
            where = f"worst at {place}" if place else ""
            checks.append(replace(check, detail="; ".join(filter(None, (where, check.detail)))))
    return min(checks, key=lambda check: (WORST.index(check.status), -check.value))
