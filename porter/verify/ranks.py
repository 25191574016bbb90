"""The ranks of a split port at work: each runs its segments in order and stops where something is exchanged, and
whoever drives them moves the tensors: here in one process, the ranks in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from porter.exchange import Exchange
from porter.manifest import Port
from porter.package.plan import DTYPES
from porter.verify.session import Arrays, BrokenPort, GraphSession
from porter.verify.widen import Weights

Routes = Mapping[int, np.ndarray]
Working = Generator[tuple[Exchange, np.ndarray | None], np.ndarray | None, Arrays]  # what is exchanged → what is taken


@dataclass(frozen=True)
class Call:
    """What a rank is told of a call of a graph: `feed` by the names of inputs, the rank's own cache among them."""

    graph: str
    feed: Mapping[str, np.ndarray]
    routes: Routes | None
    embedding_scale: float

    @property
    def tokens(self) -> int:
        """Batch * sequence."""
        return self.feed["input_ids"].size


@dataclass(frozen=True)
class Program:
    """What a rank does: before its first segment, and behind each, the exchanges in order; and for each graph of the
    port, which files are its segments.
    """

    segments: Mapping[str, tuple[str, ...]]
    before: tuple[Exchange, ...]
    behind: tuple[tuple[Exchange, ...], ...]

    @classmethod
    def of(cls, port: Port, rank: int) -> Program:
        """Out of porter.json."""
        split = port.manifest["split"]
        own = split["ranks"][rank]
        exchanges = [e for e in map(Exchange.of_json, split["exchanges"]) if e.group_of(rank)]
        mine = [e for e in exchanges if e.stage == own["stage"]]
        segments = {graph: tuple(Path(file).name for file in files) for graph, files in own["segments"].items()}
        behind = [tuple(e for e in mine if e.after == n) for n in range(max(map(len, segments.values())))]
        return cls(segments, tuple(e for e in exchanges if e.stage != own["stage"]), tuple(behind))


class Rank:
    """The segments of one rank, loaded, for each graph of the port."""

    def __init__(self, program: Program, segments: Mapping[str, Sequence[GraphSession]]) -> None:
        self._program, self._segments = program, segments

    def work(self, call: Call) -> Working:
        """One call: yields each exchange with what this rank gives, is sent what it takes; returns all values."""
        values = dict(call.feed)
        for exchange in self._program.before:
            values |= self._taken(exchange, (yield exchange, None))
        for segment, behind in zip(self._segments[call.graph], self._program.behind, strict=True):
            values |= segment.compute(values, call.routes, call.embedding_scale)
            for exchange in behind:
                given = values[exchange.gives]
                if given.shape != (call.tokens, exchange.width):
                    message = f"{exchange.gives} is {list(given.shape)}, not [{call.tokens}, {exchange.width}]"
                    raise BrokenPort(f"{message}: porter.json tells other bytes than are exchanged")
                values |= self._taken(exchange, (yield exchange, given))
        return values

    def _taken(self, exchange: Exchange, value: np.ndarray | None) -> Arrays:
        return {} if value is None else {exchange.takes: value}


Execute = Callable[[Sequence[Call]], list[Arrays]]  # a call for each rank → all values of each


def open_rank(
    card: Port, program: Program, wide: Callable[[frozenset[str]], Weights], *, forced: bool, deployed: bool
) -> Rank:
    """One rank, its segments loaded. Raises BrokenPort where one does not."""

    def load(file: str) -> GraphSession:
        return GraphSession(card, card.folder / file, wide, forced=forced, deployed=deployed)

    return Rank(program, {graph: [load(file) for file in files] for graph, files in program.segments.items()})


def rounding(port: Port, *, deployed: bool) -> Callable[[np.ndarray], np.ndarray]:
    """What becomes of a sum in float32 where the dtype of the port is emulated."""
    dtype = DTYPES[port.dtype].numpy() if deployed else np.dtype(np.float32)
    return lambda values: values.astype(dtype).astype(np.float32)


def in_turn(ranks: Sequence[Rank], rounded: Callable[[np.ndarray], np.ndarray], calls: Sequence[Call]) -> list[Arrays]:
    """Runs all ranks, each as far as it comes; gives all values of each. Sums are `rounded` as the deployed dtype does.

    Raises BrokenPort where they wait for one another without end.
    """
    working = [rank.work(call) for rank, call in zip(ranks, calls, strict=True)]
    waiting: dict[int, tuple[Exchange, np.ndarray | None]] = {}
    results: dict[int, Arrays] = {}

    def go_on(rank: int, value: np.ndarray | None) -> None:
        try:
            waiting[rank] = working[rank].send(value)
        except StopIteration as end:
            results[rank] = end.value

    for rank in range(len(working)):
        go_on(rank, None)
    while waiting:
        ready = [r for r in waiting if _together(r, waiting)]
        if not ready:
            raise BrokenPort("ranks wait for one another: porter.json does not tell their exchanges in order")
        exchange = waiting[ready[0]][0]
        group = exchange.group_of(ready[0]) or ()
        given = [value for rank in group if (value := waiting.pop(rank)[1]) is not None]
        for rank, value in zip(group, exchanged(exchange, given, rounded), strict=True):
            go_on(rank, value)
    return [results[rank] for rank in range(len(working))]


def exchanged(
    exchange: Exchange, given: Sequence[np.ndarray], rounded: Callable[[np.ndarray], np.ndarray]
) -> list[np.ndarray | None]:
    """What each card of a group takes."""
    match exchange.kind:
        case "AllReduce":
            total = given[0]
            for value in given[1:]:
                total = total + value
            return [rounded(total)] * len(given)
        case "AllGather":
            return [np.concatenate(given, axis=-1)] * len(given)
        case "Send":
            return [None, given[0]]


def _together(rank: int, waiting: Mapping[int, tuple[Exchange, np.ndarray | None]]) -> bool:
    exchange = waiting[rank][0]
    group = exchange.group_of(rank) or ()
    return all(peer in waiting and waiting[peer][0] == exchange for peer in group)
