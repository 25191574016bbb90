"""The levels that measure the port at its dtype: one run of everything serves both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from porter.manifest import Port
from porter.model import Model
from porter.verify.benchmark import Benchmark, Parties, ToEntries, add_prompts
from porter.verify.deployed import open_deployed
from porter.verify.distribution import check_distribution
from porter.verify.drift import Drift
from porter.verify.dtype import check_dtype
from porter.verify.elementwise import RULES
from porter.verify.original import Originals
from porter.verify.prompts import COUNTS, Prompts, read_prompts, write_prompts
from porter.verify.report import Asked, Level
from porter.verify.routes import Recorder
from porter.verify.runs import PortRun, open_run
from porter.verify.runtime import Runtime
from porter.verify.stories import reach
from porter.verify.texts import Texts

if TYPE_CHECKING:
    from porter import verify as story
    from porter.verify.precision import Precision

DECIDERS = {"dtype": check_dtype, "distribution": check_distribution}


def measure_levels(
    port: Port,
    model: Model,
    originals: Originals,
    levels: Sequence[str],
    tokens: int,
    texts: Texts | None,
    to_entries: ToEntries,
    watch: story.Watch,
    runtime: Runtime | None = None,
    recorder: Recorder | None = None,
) -> tuple[list[Level], Asked]:
    """The levels of these names, and what was asked; without texts the original writes them. To tell of drift, so many
    `tokens` at least are decoded, where the model is resident. With a runtime that runs the port as it is deployed,
    else it is emulated. What routers choose goes into the recorder.

    Raises BrokenPort where the port does not load or run.
    """
    watch(f"loading port and original in {port.dtype}")
    free = _open(port, model, originals, runtime)
    found, parties, drift = Benchmark(RULES[port.dtype], recorder=recorder), None, None
    asked: list[np.ndarray] = []
    decided: list[Level] = []
    for prompts in _helpings(originals, texts, reach(port, model), watch):
        asked.append(np.concatenate([prompts.input_ids, prompts.next_ids[:, -1:]], axis=1))
        routed = bool(prompts.routes) and runtime is None
        parties = parties or _parties(port, model, originals, to_entries, free, routed=routed)
        add_prompts(found, prompts, parties)
        decided = [DECIDERS[name](found, port.dtype) for name in levels]
        if "distribution" in levels and originals.stages.resident:
            watch("decoding token by token on both sides")
            drift = drift or Drift(port, model, tokens, parties)
            drift.add(prompts)
            decided = [drift.added_to(lv, port.dtype) if lv.name == "distribution" else lv for lv in decided]
        if not any(level.open for level in decided):
            break
    return decided, _asked(texts, asked)


def _open(port: Port, model: Model, originals: Originals, runtime: Runtime | None) -> PortRun:
    if runtime is not None:
        return open_deployed(port, runtime)
    return open_run(port, model, originals.stages, forced=False, deployed=True)


def _parties(
    port: Port, model: Model, originals: Originals, to_entries: ToEntries, free: PortRun, *, routed: bool
) -> Parties:
    led = open_run(port, model, originals.stages, forced=True, deployed=True) if routed else None
    return Parties(free, originals.at(cast("Precision", port.dtype)), originals.exact, led, to_entries)


def _helpings(
    originals: Originals, texts: Texts | None, positions: int | None, watch: story.Watch
) -> Iterator[Prompts]:
    """Prompts, and more of them for as long as somebody asks."""
    if texts is None:
        for count in COUNTS:
            watch(f"writing {count} prompts in the original's own words, and reading them on both sides")
            yield write_prompts(originals.as_stored(), positions, count)
    else:
        for ids in texts.helpings:
            watch(f"reading {len(ids)} prompts on both sides")
            yield read_prompts(originals.as_stored(), ids)


def _asked(texts: Texts | None, ids: Sequence[np.ndarray]) -> Asked:
    digest = hashlib.sha256()
    for helping in ids:
        digest.update(helping.astype("<i8").tobytes())
    return Asked(texts.source if texts else "original", sum(map(len, ids)), digest.hexdigest())
