"""A port for several cards, called as one: every rank gets the call and its own cache, and what they computed is put
together again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from porter.manifest import Port
from porter.model import Model
from porter.verify.cards import cards_of
from porter.verify.launched import Launched
from porter.verify.ranks import Call, Execute, Program, Routes, in_turn, open_rank, rounding
from porter.verify.runs import PortPast, PortRun, PortTrace, as_run
from porter.verify.session import PAST, Arrays, BrokenPort, Results, results_of
from porter.verify.widen import wide_weights


class SplitSession:
    """A graph of a port on all its ranks; `execute` has them work. Their caches stand side by side, with `3:` in front
    of the names of rank 3's.
    """

    def __init__(self, graph: str, models: Sequence[Model], execute: Execute, *, forced: bool) -> None:
        self._graph, self._models, self._execute, self._forced = graph, models, execute, forced

    def cache(self, batch: int, places: int) -> Arrays:
        """A cache of so many places with nothing in them."""
        return {
            f"{rank}:{PAST}{layer}.{entry.name}": np.zeros([batch, entry.heads, places, entry.width], np.float32)
            for rank, model in enumerate(self._models)
            for layer, entries in enumerate(model.network.cache(), model.network.start)
            for entry in entries
        }

    def run(
        self,
        feed: Mapping[str, np.ndarray],
        routes: Routes | None,
        embedding_scale: float,
        hidden: np.ndarray | None = None,
    ) -> Results:
        """One call. Raises BrokenPort where cards have different numbers of what must be the same on them."""
        told = {name: array for name, array in feed.items() if ":" not in name}
        calls = [
            Call(self._graph, told | _of_rank(rank, feed), routes, embedding_scale) for rank in range(len(self._models))
        ]
        values = self._execute(calls)
        logits = _agreed("logits", [found["logits"] for found in values if "logits" in found])
        parts = [results_of(found, logits, forced=self._forced) for found in values]
        cache = {f"{rank}:{name}": array for rank, part in enumerate(parts) for name, array in part.cache.items()}
        layers, router_logits, routes_taken = (
            _together(kind, [getattr(part, kind) for part in parts]) for kind in ("layers", "router_logits", "routes")
        )
        return Results(logits, layers, router_logits, routes_taken, cache)


class SplitRun(PortRun):
    """A port whose caches, as a trace has them, are put together: the heads of all cards side by side, and what several
    have once.
    """

    def __init__(self, run: PortRun, models: Sequence[Model]) -> None:
        self._run, self._models = run, models

    def run(
        self,
        input_ids: np.ndarray,
        position_ids: np.ndarray,
        mask: np.ndarray,
        past: PortPast | None = None,
        routes: Routes | None = None,
        embedding_scale: float = 1.0,
        hidden: np.ndarray | None = None,
    ) -> tuple[PortTrace, PortPast]:
        trace, left = self._run.run(input_ids, position_ids, mask, past, routes, embedding_scale, hidden)
        return replace(trace, cache=self._whole(trace.cache)), left

    def of_size(self, size: tuple[int, int]) -> PortRun:
        return SplitRun(self._run.of_size(size), self._models)

    def _whole(self, cache: Arrays) -> Arrays:
        """Layer by layer: the name "3.key" → [B, heads, T, width]."""
        found: dict[str, dict[int, list[np.ndarray]]] = {}
        for rank, model in enumerate(self._models):
            for layer, entries in enumerate(model.network.cache(), model.network.start):
                for entry in entries:
                    name = f"{layer}.{entry.name}"
                    array = cache[f"{rank}:{PAST}{name}"]
                    found.setdefault(name, {}).setdefault(entry.share.index, []).append(array)
        agreed = {n: [_agreed(f"cache {n}", copies[i]) for i in sorted(copies)] for n, copies in found.items()}
        return {name: np.concatenate(parts, axis=1) for name, parts in agreed.items()}


def open_split(port: Port, model: Model, *, forced: bool, deployed: bool) -> PortRun:
    """The port, ready to be called: all ranks in this process, or each in one of its own where it is `launched`.

    Raises BrokenPort where it does not load.
    """
    cards = cards_of(port, model)
    programs = [Program.of(port, rank) for rank in range(len(cards))]
    execute: Execute
    if port.launched:
        execute = Launched(port, model.checkpoint.folder, forced=forced, deployed=deployed)
    else:
        loaded = [
            open_rank(card, program, partial(wide_weights, its), forced=forced, deployed=deployed)
            for (card, its), program in zip(cards, programs, strict=True)
        ]
        execute = partial(in_turn, loaded, rounding(port, deployed=deployed))
    models = [its for _, its in cards]
    sessions = {graph: SplitSession(graph, models, execute, forced=forced) for graph in programs[0].segments}
    return SplitRun(as_run(port, sessions), models)


def _together(kind: str, parts: Sequence[Mapping[int, np.ndarray]]) -> dict[int, np.ndarray]:
    """Of every layer, what the cards of its stage have."""
    layers = dict.fromkeys(layer for found in parts for layer in found)
    return {n: _agreed(f"{kind} of layer {n}", [found[n] for found in parts if n in found]) for n in layers}


def _agreed(what: str, copies: Sequence[np.ndarray]) -> np.ndarray:
    """One of the copies. Raises BrokenPort where they differ: then cards work on different numbers."""
    if any(not np.array_equal(copies[0], other, equal_nan=True) for other in copies[1:]):
        raise BrokenPort(f"cards that must have the same {what} differ")
    return copies[0]


def _of_rank(rank: int, cache: Mapping[str, np.ndarray]) -> Arrays:
    return {name.removeprefix(f"{rank}:"): a for name, a in cache.items() if name.startswith(f"{rank}:")}
