"""Where a port that fails is wrong: the first block whose own error leaves the band, in the first story that fails.

Port and original go through the story once more, cut at every value that both have. Each block is given what the
original has in float64, on the side of the original's float32 too, so that it shows its own error and no other's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from porter.verify.replay import Judgement, Subgraph, judge, write
from porter.verify.report import ErrorAt, Figures, Level, Located
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
    figures: Figures = field(default_factory=Figures)
    notes: tuple[str, ...] = ()


@dataclass
class _Search:
    """A story under search: of each call the mask over all places and the pieces that the port takes it in; and what
    was found up to now, by layer and block.
    """

    story: Scenario
    masks: list[np.ndarray]
    pieces: list[list[Piece]]
    errors: dict[tuple[int | None, str], ErrorAt] = field(default_factory=dict)

    def note(self, tap: Tap, found: Judgement) -> None:
        """Keeps the error of a block where it is worst."""
        if tap.kind in ("mask", "choice"):
            return
        place = self.story.name, tap.block, "" if tap.layer is None else str(tap.layer), tap.layer
        error = ErrorAt("semantics", *place, found.port, found.own, found.value, found.limit)
        held = self.errors.setdefault((tap.layer, tap.block), error)
        if not error.ratio <= held.ratio:
            self.errors[tap.layer, tap.block] = error


@dataclass(frozen=True)
class _Compared:
    """A value of a piece on all sides, in the port's layout, and what came of it."""

    tap: Tap
    expected: np.ndarray
    own: np.ndarray
    counted: np.ndarray
    found: Judgement


class Bisection:
    """Port and original, block by block."""

    def __init__(self, port: Port, model: Model, originals: Originals, to_entries: ToEntries) -> None:
        self._port, self._model, self._originals, self._to_entries = port, model, originals, to_entries

    @np.errstate(all="ignore")
    def locate(self, stories: Sequence[Scenario], figures: Figures, watch: Callable[[str], None]) -> Fault:
        """The first fault in stories that fail; where no block shows it by itself, the first layer that fails, as the
        `figures` of the level have it. What does not fit into memory is read once more, not once a story.
        """
        if not stories:  # what fails is none, and says itself what it is
            return Fault()
        reason = "no block by itself leaves the band"
        try:
            for story in stories if self._originals.stages.resident else stories[:1]:
                watch(f"looking for the fault: {story.name}")
                if (fault := self._search(story)) is not None:
                    return fault
        except BrokenPort as error:
            reason = str(error)
        return _by_layer(figures, self._port, reason)

    def _search(self, story: Scenario) -> Fault | None:
        """Stage by stage; of what does not fit into memory one side at a time."""
        masks = Walk(story).masks()
        search = _Search(story, masks, [list(pieces_of(self._port, story, n, masks)) for n in range(len(masks))])
        given: list[np.ndarray] | None = None
        for stage in self._originals.stages.parts:
            fault, given = self._through(stage, search, given)
            if fault is not None:
                return fault
        return None

    def _through(
        self, stage: Stage, search: _Search, given: list[np.ndarray] | None
    ) -> tuple[Fault | None, list[np.ndarray]]:
        exact, own = self._originals.exact, self._originals.at("float32")
        part = exact.part(stage)
        cuts = self._cuts(search, stage if len(exact.stages.parts) > 1 else None, modules_of(part))
        sources: set[Source] = set().union(*(cut.sources() for cut in cuts.values()))
        moments = tell(part, search.story, search.masks, sources, given)
        del part
        exact.release()
        baselines = tell_again(own.part(stage), search.story, search.masks, sources, moments)
        own.release()
        return self._compare(search, cuts, moments, baselines), [moment.trace.logits for moment in moments]

    def _cuts(self, search: _Search, stage: Stage | None, modules: Mapping[str, bool]) -> dict[Path, Dissection]:
        """The graphs that the story takes, to be cut."""
        wide = cache(partial(wide_weights, self._model))  # once, whichever graphs read them
        graphs = dict.fromkeys(piece.graph for call in search.pieces for piece in call)
        return {graph: Dissection(self._port, graph, wide, stage, modules) for graph in graphs}

    def _compare(
        self, search: _Search, cuts: Mapping[Path, Dissection], moments: Sequence[Moment], baselines: Sequence[Moment]
    ) -> Fault | None:
        """Call by call and piece by piece, until a block leaves the band."""
        for n, (moment, baseline) in enumerate(zip(moments, baselines, strict=True)):
            for piece in search.pieces[n]:
                cut = cuts[piece.graph]
                cut.open(moment)
                exact = {tap.value: laid_out(tap, piece, moment, self._to_entries) for tap in cut.taps}
                feed = cut.feed(piece, moment, exact, search.story.embedding_scale, self._to_entries)
                results = cut.run(feed)
                compared = [
                    self._judged(tap, piece, moment, baseline, results[tap.value], exact[tap.value]) for tap in cut.taps
                ]
                for one in compared:
                    search.note(one.tap, one.found)
                if first := next((one for one in compared if one.found.fails), None):
                    return self._fault(search, n, piece.graph, first, cut, feed)
        return None

    def _judged(
        self, tap: Tap, piece: Piece, moment: Moment, baseline: Moment, result: np.ndarray, expected: np.ndarray
    ) -> _Compared:
        own = laid_out(tap, piece, baseline, self._to_entries)
        picked = counted(tap, piece, _tied(tap, moment, baseline))
        return _Compared(tap, expected, own, picked, judge(tap.kind, result, expected, own, picked))

    def _fault(
        self,
        search: _Search,
        call: int,
        graph: Path,
        first: _Compared,
        cut: Dissection,
        feed: Mapping[str, np.ndarray],
    ) -> Fault:
        tap, found, port = first.tap, first.found, self._port
        model = cut.alone(tap)
        place = search.story.name, tap.kind, tap.layer, tap.block, tap.value
        facts: dict[str, Any] = {
            "port": digest_of(port.folder / MANIFEST)["sha256"],
            "target": port.manifest["target"],
            "dtype": port.dtype,
            "widened": port.dtype != "float32",
            "quantize": port.manifest.get("quantize"),
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
        return Fault(
            Located(*place, found.value, found.limit, graph.name),
            Subgraph(model, cut.given(model, feed), first.expected, first.own, first.counted, facts),
            Figures(errors=tuple(search.errors.values())),
        )


def locate(
    search: Bisection,
    failing: Sequence[Scenario],
    level: Level,
    folder: Path | None,
    watch: Callable[[str], None],
) -> tuple[Level, Located | None, list[str]]:
    """Where a level is wrong, with the block written to a `folder` where one is wanted: the level with the errors of
    the blocks, the place, and notes.
    """
    fault = search.locate(failing, level.figures, watch)
    notes, located = list(fault.notes), fault.located
    if folder is not None and fault.part is not None and located is not None:
        write(folder, fault.part)
        located = replace(located, folder=str(folder))
    elif folder is not None:
        notes.append(f"no block could be written to {folder}")
    return replace(level, figures=level.figures + fault.figures), located, notes


def _tied(tap: Tap, moment: Moment, baseline: Moment) -> np.ndarray | None:
    """Of each token [B, S], whether the original's own rounding could have changed its experts."""
    if tap.kind != "choice" or tap.layer is None:
        return None
    chosen = moment.trace.routes[tap.layer]
    return near_tie(moment.trace, baseline.trace, tap.layer, chosen.shape[1]).reshape(moment.trace.logits.shape[:2])


def _by_layer(figures: Figures, port: Port, reason: str) -> Fault:
    """The first layer whose error leaves the band, where no block can be named."""
    beyond = [error for error in figures.errors if error.limit is not None and not error.ratio <= error.limit]
    notes = (f"no block can be named as the first that is wrong: {reason}",)
    if not beyond:
        return Fault(notes=notes)
    first = min(beyond, key=lambda error: np.inf if error.layer is None else error.layer)
    graph = port.graphs[0].name if len(port.graphs) == 1 else None
    located = Located(first.scenario, first.quantity, first.layer, None, None, first.ratio, LIMIT, graph)
    return Fault(located, notes=notes)
