"""A port for several cards, called as one: every rank gets the call and its own cache, and what they computed is put
together again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from porter.manifest import Port
from porter.model import Model
from porter.verify.cards import cards_of
from porter.verify.launched import Launched
from porter.verify.ranks import Call, Execute, Program, Routes, in_turn, open_rank, rounding
from porter.verify.runs import PortPast, PortRun, PortTrace
from porter.verify.session import PAST, PRESENT, Arrays, BrokenPort, results_of
from porter.verify.widen import wide_weights


class SplitRun(PortRun):
    """All ranks of a growing port; `execute` has them work. `forced` says whether routers are."""

    def __init__(self, port: Port, models: Sequence[Model], execute: Execute, *, forced: bool) -> None:
        self._models, self._execute, self._forced = models, execute, forced
        self._hidden = int(port.manifest["minimum_past"])
        self._stages = [rank["stage"] for rank in port.manifest["split"]["ranks"]]

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
        past = past or PortPast(self._empty(rows), np.zeros((rows, self._hidden), np.int64), 0)
        whole = np.concatenate([past.places, mask], axis=1)
        feed = {"input_ids": input_ids, "position_ids": position_ids, "attention_mask": whole}
        calls = [Call(feed | _of_rank(n, past.cache), routes, embedding_scale) for n in range(len(self._models))]
        values = self._execute(calls)
        left = {_key(n, name): a for n, found in enumerate(values) for name, a in _presents(found).items()}
        return self._trace(values, input_ids.shape), PortPast(left, whole, 0)

    def _empty(self, rows: int) -> Arrays:
        return {
            _key(n, f"{PAST}{layer}.{entry.name}"): np.zeros([rows, entry.heads, self._hidden, entry.width], np.float32)
            for n, model in enumerate(self._models)
            for layer, entries in enumerate(model.network.cache(), model.network.start)
            for entry in entries
        }

    def _trace(self, values: Sequence[Arrays], shape: tuple[int, ...]) -> PortTrace:
        """What every card of a stage has must be the same on all of them."""
        logits = _agreed("logits", [found["logits"] for found in values if "logits" in found])
        traces = [results_of(found, logits, forced=self._forced) for found in values]

        def together(name: str) -> dict[int, np.ndarray]:
            parts = [getattr(trace, name) for trace in traces]
            layers = dict.fromkeys(layer for found in parts for layer in found)
            return {n: _agreed(f"{name} of layer {n}", [found[n] for found in parts if n in found]) for n in layers}

        return PortTrace(
            logits.reshape(*shape, -1), together("layers"), together("router_logits"), together("routes"),
            self._cache(values),
        )  # fmt: skip

    def _cache(self, values: Sequence[Arrays]) -> Arrays:
        """The heads of all cards side by side, those that several have once: "3.key" → [B, heads, T, width]."""
        found: dict[str, dict[int, list[np.ndarray]]] = {}
        for model, arrays in zip(self._models, values, strict=True):
            for layer, entries in enumerate(model.network.cache(), model.network.start):
                for entry in entries:
                    name = f"{layer}.{entry.name}"
                    array = arrays[PRESENT + name][:, :, self._hidden :]
                    found.setdefault(name, {}).setdefault(entry.share.index, []).append(array)
        agreed = {n: [_agreed(f"cache {n}", copies[i]) for i in sorted(copies)] for n, copies in found.items()}
        return {name: np.concatenate(parts, axis=1) for name, parts in agreed.items()}


def open_split(port: Port, model: Model, *, forced: bool, deployed: bool) -> PortRun:
    """The port, ready to be called: all ranks in this process, or each in one of its own where it is `launched`.

    Raises BrokenPort where it does not load.
    """
    cards = cards_of(port, model)
    execute: Execute
    if port.launched:
        execute = Launched(port, model.checkpoint.folder, forced=forced, deployed=deployed)
    else:
        loaded = [
            open_rank(card, Program.of(port, n), partial(wide_weights, its), forced=forced, deployed=deployed)
            for n, (card, its) in enumerate(cards)
        ]
        execute = partial(in_turn, loaded, rounding(port, deployed=deployed))
    return SplitRun(port, [its for _, its in cards], execute, forced=forced)


def _agreed(what: str, copies: Sequence[np.ndarray]) -> np.ndarray:
    """One of the copies. Raises BrokenPort where they differ: then cards work on different numbers."""
    if any(not np.array_equal(copies[0], other, equal_nan=True) for other in copies[1:]):
        raise BrokenPort(f"cards that must have the same {what} differ")
    return copies[0]


def _key(rank: int, name: str) -> str:
    return f"{rank}:{name}"


def _of_rank(rank: int, cache: Mapping[str, np.ndarray]) -> Arrays:
    return {name.removeprefix(f"{rank}:"): a for name, a in cache.items() if name.startswith(f"{rank}:")}


def _presents(values: Arrays) -> Arrays:
    return {name.replace(PRESENT, PAST): a for name, a in values.items() if name.startswith(PRESENT)}
