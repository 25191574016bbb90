"""A text that is given, token by token through the cache: what port and original make of it, and what is exact.

Port and original at the deployed dtype take one token a call, as in use. Float64 need not: attention is causal, so all
tokens in one call are the same function of the same numbers, and its rounding is nothing beside that of the others.
Only where the rotation depends on the longest position of a call does float64, too, go step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from porter.verify.benchmark import ToEntries
from porter.verify.original import Original
from porter.verify.part import Trace
from porter.verify.runs import PortRun, PortTrace
from porter.verify.scenarios import Call

Routes = dict[int, np.ndarray]  # layer → [B, S, K]


@dataclass(frozen=True)
class Decoded:
    """What one side made of B texts of S tokens, all calls together; places that are masked are left out."""

    logits: np.ndarray  # [B, S, V]
    routes: Routes
    cache: dict[str, np.ndarray]  # "3.key" → [B, heads, S, width], as it stands behind the last token


def decode_port(port: PortRun, calls: Sequence[Call]) -> Decoded:
    """The port's side, its experts freely chosen. Raises BrokenPort where it stops."""
    traces, past = list[PortTrace](), None
    for call in calls:
        past = past.with_gap(call.gap) if past and call.gap else past
        trace, past = port.run(call.input_ids, call.position_ids, call.mask, past)
        traces.append(replace(trace, layers={}, router_logits={}))  # which nobody asks for, and they are large
    real = _mask(calls)[0].astype(bool)
    return _joined(traces, {name: values[:, :, real] for name, values in traces[-1].cache.items()})


def decode_original(
    original: Original, calls: Sequence[Call], entries: Sequence[str], to_entries: ToEntries, routes: Routes
) -> Decoded:
    """The original's, with the cache named and shaped as a port's; experts are chosen for it where there are routes."""
    traces, past, mask = list[Trace](), None, _mask(calls)
    done = places = 0
    for call in calls:
        past = past.with_gap(call.gap) if past and call.gap else past
        new = slice(done, done + call.input_ids.shape[1])
        done, places = new.stop, places + call.gap + call.input_ids.shape[1]
        trace, past = original.run(
            call.input_ids,
            position_ids=call.position_ids,
            attention_mask=mask[:, :places],
            past=past,
            routes={n: chosen[:, new].reshape(-1, chosen.shape[-1]) for n, chosen in routes.items()},
        )
        traces.append(replace(trace, layers={}, router_logits={}, choice={}, group_scores={}))
    real = mask[0].astype(bool)
    held = [entry[:, :, real] for layer in traces[-1].cache.values() for entry in to_entries(*layer)]
    return _joined(traces, dict(zip(entries, held, strict=True)))


def at_once(calls: Sequence[Call]) -> list[Call]:
    """The same tokens in as few calls as the gaps between them allow."""
    groups: list[list[Call]] = []
    for call in calls:
        if groups and not call.gap:
            groups[-1].append(call)
        else:
            groups.append([call])
    return [
        Call(
            np.concatenate([call.input_ids for call in group], axis=1),
            np.concatenate([call.position_ids for call in group], axis=1),
            np.concatenate([call.mask for call in group], axis=1),
            group[0].gap,
        )
        for group in groups
    ]


def _mask(calls: Sequence[Call]) -> np.ndarray:
    """Of all places that the calls leave in the cache: [B, places]."""
    gaps = [np.zeros((len(call.mask), call.gap), np.int64) for call in calls]
    return np.concatenate([part for gap, call in zip(gaps, calls, strict=True) for part in (gap, call.mask)], axis=1)


def _joined(traces: Sequence[PortTrace | Trace], cache: dict[str, np.ndarray]) -> Decoded:
    """What all calls computed, their tokens behind one another."""
    batch, chosen = len(traces[0].logits), [trace.routes for trace in traces]
    routes = {
        n: np.concatenate([call[n].reshape(batch, -1, k.shape[-1]) for call in chosen], axis=1)
        for n, k in chosen[0].items()
    }
    return Decoded(np.concatenate([trace.logits for trace in traces], axis=1), routes, cache)
