"""Where a port that fails is wrong: the first block whose own error leaves the band, in the first story that fails.

Port and original go through the story once more, cut at every value that both have. Each block is given what the
original has in float64, on the side of the original's float32 too, so that it shows its own error and no other's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from porter.manifest import Port
from porter.model import Model
from porter.package.files import MANIFEST, digest_of
from porter.verify.counterparts import counted, laid_out
from porter.verify.dissect import Dissection
from porter.verify.findings import LIMIT, near_tie
from porter.verify.inner import Moment, Source, modules_of, tell, tell_again
from porter.verify.original import Originals
from porter.verify.pieces import Piece, pieces_of
from porter.verify.replay import Judgement, Subgraph, judge
from porter.verify.report import ErrorAt, Figures, Located
from porter.verify.scenarios import Scenario
from porter.verify.semantics import ToEntries, Walk
from porter.verify.session import BrokenPort
from porter.verify.stages import Stage
from porter.verify.taps import Tap
from porter.verify.widen import wide_weights


@dataclass(frozen=True)
class Fault:
    """What was found: the place, the block to be saved where there is one, errors by block, and why there is none."""

    located: Located | None = None
    part: Subgraph | None = None
    figures: Figures = Figures()
    notes: tuple[str, ...] = ()


@dataclass
class _Search:
    """A story under search: of each call the pieces that the port takes it in, and what was found up to now."""

    story: Scenario
    masks: list[np.ndarray]
    pieces: list[list[Piece]]
    errors: dict[str, ErrorAt] = field(default_factory=dict)


class Bisection:
    """Port and original, block by block."""

    def __init__(self, port: Port, model: Model, originals: Originals, to_entries: ToEntries) -> None:
        self._port, self._originals, self._to_entries = port, originals, to_entries
        self._wide = cache(partial(wide_weights, model))

    @np.errstate(all="ignore")
    def locate(self, stories: Sequence[Scenario], figures: Figures, watch: Callable[[str], None]) -> Fault:
        """The first fault in stories that fail; where no block shows it by itself, the first layer of those `figures`."""
        reason = "no block by itself leaves the band"
        try:
            for story in stories:
                watch(f"looking for the fault: {story.name}")
                if (fault := self._search(story)) is not None:
                    return fault
        except BrokenPort as error:
            reason = str(error)
        return _by_layer(figures, self._port, reason)

    def _search(self, story: Scenario) -> Fault | None:
        masks = Walk(story).masks()
        pieces = [list(pieces_of(self._port, story, n, masks)) for n in range(len(masks))]
        search, given = _Search(story, masks, pieces), None
        exact, own = self._originals.exact, self._originals.at("float32")
        for stage in exact.stages.parts:
            alone = stage if len(exact.stages.parts) > 1 else None
            half = exact.part(stage)
            cuts = self._cuts(search, alone, modules_of(half))
            sources: set[Source] = set().union(*(cut.sources() for cut in cuts.values()))
            moments = tell(half, story, masks, sources, given)
            del half
            exact.release()
            baselines = tell_again(own.part(stage), story, masks, sources, moments)
            own.release()
            if (fault := self._compare(search, cuts, moments, baselines)) is not None:
                return fault
            given = [moment.trace.logits for moment in moments]
        return None

    def _cuts(self, search: _Search, stage: Stage | None, modules: Mapping[str, bool]) -> dict[Path, Dissection]:
        """The graphs that the story takes, cut."""
        graphs = dict.fromkeys(piece.graph for call in search.pieces for piece in call)
        return {graph: Dissection(self._port, graph, self._wide, stage, modules) for graph in graphs}

    def _compare(
        self,
        search: _Search,
        cuts: Mapping[Path, Dissection],
        moments: Sequence[Moment],
        baselines: Sequence[Moment],
    ) -> Fault | None:
        """Call by call and piece by piece, until a block leaves the band."""
        for n, (moment, baseline) in enumerate(zip(moments, baselines, strict=True)):
            for piece in search.pieces[n]:
                cut = cuts[piece.graph]
                cut.open(moment)
                expected = {tap.value: laid_out(tap, piece, moment, self._to_entries) for tap in cut.taps}
                feed = cut.feed(piece, moment, expected, search.story.embedding_scale, self._to_entries)
                results = cut.run(feed)
                first: tuple[Tap, Judgement] | None = None
                for tap in cut.taps:
                    own, picked = self._own(tap, piece, baseline), counted(tap, piece, _tied(tap, moment, baseline))
                    found = judge(tap.kind, results[tap.value], expected[tap.value], own, picked)
                    _note(search, tap, found)
                    first = first or ((tap, found) if found.fails else None)
                if first:
                    tap, found = first
                    own, picked = self._own(tap, piece, baseline), counted(tap, piece, _tied(tap, moment, baseline))
                    return self._fault(
                        search, n, cut, piece.graph, tap, found, feed, (expected[tap.value], own, picked)
                    )
        return None

    def _own(self, tap: Tap, piece: Piece, baseline: Moment) -> np.ndarray:
        return laid_out(tap, piece, baseline, self._to_entries)

    def _fault(
        self,
        search: _Search,
        call: int,
        cut: Dissection,
        graph: Path,
        tap: Tap,
        found: Judgement,
        feed: Mapping[str, np.ndarray],
        saved: tuple[np.ndarray, np.ndarray, np.ndarray],
    ) -> Fault:
        model = cut.alone(tap)
        located = Located(
            search.story.name, tap.kind, tap.layer, tap.block, tap.value, found.value, found.limit, graph.name
        )
        facts: dict[str, Any] = {
            "port": digest_of(self._port.folder / MANIFEST)["sha256"],
            "target": self._port.manifest["target"],
            "dtype": self._port.dtype,
            "widened": self._port.dtype != "float32",
            "quantize": self._port.manifest.get("quantize"),
            "graph": graph.name,
            "scenario": search.story.name,
            "call": call,
            "layer": tap.layer,
            "block": tap.block,
            "value": tap.value,
            "kind": tap.kind,
            "inputs": [str(value.name) for value in model.graph.inputs],
            "ratio": found.value if np.isfinite(found.value) else str(found.value),
            "limit": found.limit,
        }
        part = Subgraph(model, cut.given(model, feed), *saved, facts)
        return Fault(located, part, Figures(errors=tuple(search.errors.values())))


def _tied(tap: Tap, moment: Moment, baseline: Moment) -> np.ndarray | None:
    """Of each token [B, S], whether the original's own rounding could have changed its experts."""
    if tap.kind != "choice" or tap.layer is None:
        return None
    chosen = moment.trace.routes[tap.layer]
    return near_tie(moment.trace, baseline.trace, tap.layer, chosen.shape[1]).reshape(moment.trace.logits.shape[:2])


def _note(search: _Search, tap: Tap, found: Judgement) -> None:
    """Keeps the error of a block where it is worst."""
    if tap.kind in ("mask", "choice"):
        return
    error = ErrorAt(
        "semantics", search.story.name, tap.block, tap.value, tap.layer, found.port, found.own, found.value, found.limit
    )
    held = search.errors.setdefault(tap.value, error)
    if not error.ratio <= held.ratio:
        search.errors[tap.value] = error


def _by_layer(figures: Figures, port: Port, reason: str) -> Fault:
    """The first layer whose error leaves the band, where no block could be named."""
    beyond = [error for error in figures.errors if error.limit is not None and not error.ratio <= error.limit]
    if not beyond:
        return Fault()
    first = min(beyond, key=lambda error: np.inf if error.layer is None else error.layer)
    graph = port.graphs[0].name if len(port.graphs) == 1 else None
    located = Located(first.scenario, first.quantity, first.layer, None, None, first.ratio, LIMIT, graph)
    return Fault(located, notes=(f"the fault is in no block that could be named: {reason}",))
