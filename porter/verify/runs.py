"""A port called as a network is: new tokens in, what they became out, whichever graphs it is made of.

A growing port has one graph, whose cache is as long as what was said. A port of fixed sizes has a graph for a piece of
a prompt and one for a token: calls are cut into pieces that fit, and each token goes to the place of its position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np

from porter.manifest import FixedSize, Port
from porter.model import Model
from porter.verify.session import PAST, Arrays, GraphSession, Results, Session
from porter.verify.stages import Stage, Stages
from porter.verify.widen import wide_weights

Routes = Mapping[int, np.ndarray]
Fixed = tuple[FixedSize, Session]
Graph = TypeVar("Graph")


@dataclass(frozen=True)
class PortTrace:
    """What one call of the port computed; the first `minimum_past` masked cache places are left out."""

    logits: np.ndarray  # [B, S, V]; of a stage without the head, what comes out of its last layer [B, S, D]
    layers: dict[int, np.ndarray]  # layer → [B * S, D]
    router_logits: dict[int, np.ndarray]  # layer → [B * S, E]
    routes: dict[int, np.ndarray]  # layer → [B * S, K]: its own choice, whatever was forced
    cache: Arrays  # "3.key" → [B, heads, T, width]


@dataclass(frozen=True)
class PortPast:
    """The cache as the port holds it, and for each place of the sequence whether it is real: the mask of a growing
    cache, or where it stands in one of fixed size, -1 for what is padding.
    """

    cache: Arrays
    places: np.ndarray  # [B, places]
    padding: int

    def with_gap(self, places: int) -> PortPast:
        """The same with empty places behind it, which the mask hides."""
        wider = np.pad(self.places, ((0, 0), (0, places)), constant_values=self.padding)
        if self.padding < 0:
            return PortPast(self.cache, wider, self.padding)
        cache = {name: np.pad(a, ((0, 0), (0, 0), (0, places), (0, 0))) for name, a in self.cache.items()}
        return PortPast(cache, wider, self.padding)


class PortRun(ABC):
    """A port that can be called."""

    @abstractmethod
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
        """One call: ids, positions and mask [B, S] of the new tokens; routes [B * S, K] per layer where it is forced.

        Embeddings are multiplied by `embedding_scale`, a power of two: that is exact. A stage without them is given
        `hidden` [B, S, D], which the one before has as its `logits`.
        """

    def of_size(self, size: tuple[int, int]) -> PortRun:
        """Where a prompt may have one of several sizes, the port with one of them alone: sequence and context."""
        return self


class GrowingRun(PortRun):
    """One graph, whose cache grows by every token, padding too; it begins with places that the mask hides where the
    front end takes no empty one.
    """

    def __init__(self, session: Session, minimum_past: int) -> None:
        self._session, self._hidden = session, minimum_past

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
        rows = len(input_ids)
        past = past or PortPast(self._session.cache(rows, self._hidden), np.zeros((rows, self._hidden), np.int64), 0)
        whole = np.concatenate([past.places, mask], axis=1)
        feed = {"input_ids": input_ids, "position_ids": position_ids, "attention_mask": whole, **past.cache}
        found = self._session.run(feed, routes, embedding_scale, hidden)
        cache = {name.removeprefix(PAST): a[:, :, self._hidden :] for name, a in found.cache.items()}
        trace = PortTrace(found.logits, found.layers, found.router_logits, found.routes, cache)
        return trace, PortPast(found.cache, whole, 0)


class FixedRun(PortRun):
    """Those of the graphs whose cache has `context` places, and which share it; `sequence` chooses among the ones for
    prompts.
    """

    def __init__(self, graphs: Sequence[Fixed], context: int, sequence: int | None = None) -> None:
        self._all, self._context = graphs, context
        fitting = [(size, session) for size, session in graphs if size.context == context]
        taken = [g for g in fitting if g[0].sequence == 1 or sequence in (None, g[0].sequence)]
        self._graphs = sorted(taken, key=lambda graph: graph[0].sequence)

    def of_size(self, size: tuple[int, int]) -> PortRun:
        sequence, context = size
        return FixedRun(self._all, context, sequence)

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
        rows = len(input_ids)
        if past is None:
            empty = self._graphs[0][1].cache(rows, self._context)
            past = PortPast(empty, np.zeros((rows, 0), np.int64), -1)
        real = mask.astype(bool)
        places = np.concatenate([past.places, np.where(real, position_ids, -1)], axis=1)
        call = _Call(input_ids, position_ids, routes, embedding_scale, hidden)
        held = self._graphs[0][1].cache(0, 0)
        cache = {name: past.cache[name].copy() for name in held}
        seen = seen_places(past.places, self._context)
        batch = self._graphs[0][0].batch
        for first in range(0, rows, batch):
            group = np.minimum(np.arange(first, first + batch), rows - 1)  # a short group repeats its last row
            for session, picked in pieces(self._graphs, real, group):
                call.take(session, group, picked, cache, seen)
        return call.trace(_in_order(cache, places)), PortPast(cache, places, -1)


class _Call:
    """A call under way: what its tokens became, piece by piece."""

    def __init__(
        self, ids: np.ndarray, positions: np.ndarray, routes: Routes | None, scale: float, hidden: np.ndarray | None
    ) -> None:
        self._ids, self._positions, self._routes, self._scale, self._hidden = ids, positions, routes, scale, hidden
        self._found: dict[tuple[str, Any], np.ndarray] = {}

    def take(self, session: Session, group: np.ndarray, picked: np.ndarray, cache: Arrays, seen: np.ndarray) -> None:
        """Runs tokens picked [b, s] (columns of the rows in `group`), and puts what became of them in its place."""
        rows = group[:, None]
        positions = self._positions[rows, picked]
        seen[rows, positions] = 1
        feed = {"input_ids": self._ids[rows, picked], "position_ids": positions, "attention_mask": seen[group]}
        feed |= {name: values[group] for name, values in cache.items()}
        numbers = (rows * self._ids.shape[1] + picked).reshape(-1)
        forced = {layer: chosen[numbers] for layer, chosen in (self._routes or {}).items()}
        given = None if self._hidden is None else self._hidden[rows, picked]
        results = session.run(feed, forced, self._scale, given)
        for name, values in results.cache.items():
            cache[name][group] = values
        for key, values in _flat(results):
            into = self._found.setdefault(key, np.zeros((self._ids.size, values.shape[-1]), values.dtype))
            into[numbers] = values

    def trace(self, cache: Arrays) -> PortTrace:
        def by_layer(kind: str) -> dict[int, np.ndarray]:
            return {layer: values for (name, layer), values in self._found.items() if name == kind}

        logits = self._found["logits", None].reshape(*self._ids.shape, -1)
        return PortTrace(logits, by_layer("layers"), by_layer("router_logits"), by_layer("routes"), cache)


def _flat(results: Results) -> Iterator[tuple[tuple[str, int | None], np.ndarray]]:
    yield ("logits", None), results.logits.reshape(-1, results.logits.shape[-1])
    for kind in ("layers", "router_logits", "routes"):
        for layer, values in getattr(results, kind).items():
            yield (kind, layer), values.reshape(-1, values.shape[-1])


def pieces(
    graphs: Sequence[tuple[FixedSize, Graph]], real: np.ndarray, group: np.ndarray
) -> Iterator[tuple[Graph, np.ndarray]]:
    """The real tokens of some rows, cut so that each piece fits a graph: columns [b, s]. A row that has fewer left than
    a piece holds repeats its last one.
    """
    columns = [np.flatnonzero(real[row]) for row in group]
    begin, longest = 0, max(len(c) for c in columns)
    while begin < longest:
        left = longest - begin
        size, session = next((g for g in graphs if g[0].sequence >= left), graphs[-1])
        numbers = np.arange(begin, begin + size.sequence)
        yield session, np.stack([c[np.minimum(numbers, len(c) - 1)] for c in columns])
        begin += size.sequence


def seen_places(places: np.ndarray, context: int) -> np.ndarray:
    """The mask over a cache of fixed size: 1 where a place of the sequence stands."""
    seen = np.zeros((len(places), context), np.int64)
    for row, taken in zip(seen, places, strict=True):
        row[taken[taken >= 0]] = 1
    return seen


def _in_order(cache: Arrays, places: np.ndarray) -> Arrays:
    """The cache as one that grows has it: place by place of the sequence, zeros for padding."""
    picked = np.maximum(places, 0)[:, None, :, None]
    real = (places >= 0)[:, None, :, None]
    return {name.removeprefix(PAST): np.take_along_axis(a, picked, axis=2) * real for name, a in cache.items()}


class StagedRun(PortRun):
    """A port that is in memory stage by stage."""

    def __init__(self, open_stage: Callable[[Stage], PortRun], stages: Stages) -> None:
        self._open = cache(open_stage) if stages.resident else open_stage
        self._stages = stages.parts

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
        traces: list[PortTrace] = []
        pasts: list[PortPast] = []
        for stage in self._stages:
            given = traces[-1].logits if traces else hidden
            run = self._open(stage)
            trace, left = run.run(input_ids, position_ids, mask, past, routes, embedding_scale, given)
            traces.append(trace)
            pasts.append(left)
        joined = {name: array for past in pasts for name, array in past.cache.items()}
        return _joined(traces), PortPast(joined, pasts[-1].places, pasts[-1].padding)


def _joined(traces: Sequence[PortTrace]) -> PortTrace:
    """What all stages computed, as one."""

    def together(name: str) -> Any:
        return {key: values for trace in traces for key, values in getattr(trace, name).items()}

    return PortTrace(
        traces[-1].logits, together("layers"), together("router_logits"), together("routes"), together("cache")
    )


def open_run(port: Port, model: Model, stages: Stages, *, forced: bool, deployed: bool = False) -> PortRun:
    """The port, ready to be called. Raises BrokenPort where it does not load."""
    opened = partial(open_stage, port, model, forced=forced, deployed=deployed)
    return opened(None) if len(stages.parts) == 1 else StagedRun(opened, stages)


def open_stage(port: Port, model: Model, stage: Stage | None, *, forced: bool, deployed: bool = False) -> PortRun:
    """A stage of a port, or all of it. Raises BrokenPort where it does not load."""
    if port.cards > 1:
        from porter.verify.split import open_split

        return open_split(port, model, forced=forced, deployed=deployed)
    wide = cache(partial(wide_weights, model))  # once, whichever graphs read them
    sessions = {g.name: GraphSession(port, g, wide, forced=forced, deployed=deployed, stage=stage) for g in port.graphs}
    return as_run(port, sessions)


def as_run(port: Port, sessions: Mapping[str, Session]) -> PortRun:
    """The graphs of a port, by the names of their files, as one network."""
    if port.context is None:
        (session,) = sessions.values()
        return GrowingRun(session, int(port.manifest["minimum_past"]))
    return FixedRun([(size, sessions[size.file]) for size in port.fixed_sizes()], port.context)
