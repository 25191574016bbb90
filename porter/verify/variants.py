"""The noise floor: the original at its dtype in other ways that are as legal as the one it is run in.

What differs between them is order of summation and where a kernel rounds, which no port can be asked to match: no
limit is tighter than what they reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from porter.verify.original import Original
from porter.verify.part import Trace


def _sdpa(original: Original, ids: np.ndarray) -> Trace:
    with original.otherwise(attention="sdpa"):
        return original.run(ids)[0]


def _threads(original: Original, ids: np.ndarray) -> Trace:
    """Half of them, or two where there is one."""
    with original.otherwise(threads=original.threads // 2 if original.threads > 1 else 2):
        return original.run(ids)[0]


def _apart(original: Original, ids: np.ndarray) -> Trace:
    """Prompt by prompt."""
    return joined([original.run(row[None])[0] for row in ids])


VARIANTS: dict[str, Callable[[Original, np.ndarray], Trace]] = {
    "sdpa attention": _sdpa,
    "one prompt at a time": _apart,
    "other threads": _threads,
}


def legal(original: Original) -> dict[str, Callable[[Original, np.ndarray], Trace]]:
    """Those that it has, and that read it once: prompt by prompt, one that is not resident would be read as often."""
    without = {None if original.stages.resident else _apart, None if original.has_sdpa else _sdpa}
    return {name: run for name, run in VARIANTS.items() if run not in without}


def joined(traces: list[Trace]) -> Trace:
    """Calls of the same length as one call of all their prompts; what routers saw beside their routes is left out."""
    first = traces[0]
    return replace(
        first,
        logits=np.concatenate([t.logits for t in traces]),
        layers={n: np.concatenate([t.layers[n] for t in traces]) for n in first.layers},
        router_logits={n: np.concatenate([t.router_logits[n] for t in traces]) for n in first.router_logits},
        routes={n: np.concatenate([t.routes[n] for t in traces]) for n in first.routes},
        choice={},
        group_scores={},
        cache={
            n: tuple(np.concatenate(parts) for parts in zip(*(t.cache[n] for t in traces), strict=True))
            for n in first.cache
        },
    )
