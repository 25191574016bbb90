"""The story of a verification: open both sides, look at the weights, then walk port and original side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from porter.errors import ParityError
from porter.manifest import Port, open_port
from porter.model import Model, understand
from porter.package.plan import parse_size
from porter.sign import Verifier
from porter.verify.cards import on_cards, on_processes
from porter.verify.conditions import check_free, check_installed, check_related, unfit
from porter.verify.report import Asked, Check, Closeness, Level, Located, ParityReport
from porter.verify.routes import Recorder, recorder_for
from porter.verify.stages import Stages, parse_layers, plan_stages
from porter.verify.where import Where, deployment

if TYPE_CHECKING:
    from porter.verify.original import Originals
    from porter.verify.runtime import Runtime
    from porter.verify.scenarios import Scenario
    from porter.verify.texts import Texts

LEVELS = ("weights", "semantics", "dtype", "distribution")

Watch = Callable[[str], None]


def verify(
    folder: Path,
    against: Path,
    *,
    levels: Sequence[str] = LEVELS,
    public_key: Path | None = None,
    tokens: int = 8,
    prompts: Path | None = None,
    layers: str | None = None,
    memory: str | None = None,
    launch: int | None = None,
    bisect: Path | None = None,
    runtime: str | None = None,
    provider: str | None = None,
    save_routes: Path | None = None,
    watch: Watch = lambda stage: None,
) -> ParityReport:
    """Compares a port with the checkpoint that it was made from; decodes `tokens` tokens greedily. With a public key
    its signature must hold, too. Of some `layers` ("0-3,58-60") only these are run, one behind the other, between
    embedding and head. What does not fit into `memory` ("6GB"; most of what is free) is run layer by layer.
    A port for several cards is run in this process, rank by rank, or by `launch` processes, one for each.
    A file of `prompts` is read instead of those that come with porter. A program (`runtime`, a command line) or a
    `provider` of ONNX Runtime runs the port as it is deployed, and the levels that measure it judge what that computed.
    Where semantics fails, the first block that is wrong is named, and saved in the folder `bisect` to be run alone.
    The file `save_routes` is told which experts the prompts hit.

    Raises PortError, CheckpointError or FamilyError where one of them cannot be read, and ParityError where the
    comparison cannot be made.
    """
    begun = time.monotonic()
    verifier = _verifier(public_key, levels)
    check_free(bisect, levels)
    levels, device, told = deployment(Where(runtime, provider), levels, layers)
    port = on_processes(open_port(folder), launch)
    watch("reading the checkpoint's headers")
    model = understand(against, port.manifest.get("attention") or "auto", port.quantization, port.places)
    check_related(port, model)
    stages, notes = _stages(model, layers, memory)
    recorder = recorder_for(save_routes, model, levels, stages.layers, (folder, against))
    notes += on_cards(port, stages, device, bisect) if {*levels} - {"weights"} else []
    texts = _own_texts(port, model, against, prompts, levels) if prompts else None
    found = [_weights(port, model, verifier, watch)] if "weights" in levels else []
    ran = Ran((), None, None)
    if run := [level for level in levels if level != "weights"]:
        ran = _run(port, model, against, stages, run, tokens, texts, bisect, watch, device, recorder)
    return ParityReport(
        port=str(folder),
        against=str(against),
        target=str(port.manifest["target"]),
        dtype=port.dtype,
        levels=(*found, *ran.levels),
        closeness=ran.closeness,
        seconds=time.monotonic() - begun,
        notes=(*notes, *told, *ran.notes),
        prompts=ran.asked,
        slice=None if layers is None else tuple(stages.layers),
        located=ran.located,
        runtime=device.name if device else None,
    )


def replay_block(folder: Path, against: Path | None = None) -> ParityReport:
    """Runs a block that `bisect` saved, and says whether it is within its band; nothing but ONNX Runtime is needed.

    Raises ParityError for a folder that holds none, is damaged, or is given together with a checkpoint.
    """
    if find_spec("onnxruntime") is None:
        raise ParityError("a replay needs onnxruntime", "pip install onnxruntime")
    from porter.verify.replay import replay

    return replay(folder, against)


@dataclass(frozen=True)
class Ran:
    """What the levels that run the port give."""

    levels: tuple[Level, ...]
    closeness: Closeness | None
    asked: Asked | None
    notes: tuple[str, ...] = ()
    located: Located | None = None


def _run(
    port: Port,
    model: Model,
    against: Path,
    stages: Stages,
    levels: Sequence[str],
    tokens: int,
    texts: Texts | None,
    bisect: Path | None,
    watch: Watch,
    device: Runtime | None,
    recorder: Recorder | None,
) -> Ran:
    """Port and original side by side: semantics, then what is measured; of a damaged port only that it is."""
    from porter.verify.original import Originals
    from porter.verify.own_weights import own_weights

    if harm := unfit(port, model, levels):
        return Ran(tuple(harm), None, None)
    override = None if port.quantization is None else partial(own_weights, port, model)
    originals = Originals(against, override, stages)
    found: list[Level] = []
    closeness: Closeness | None = None
    asked: Asked | None = None
    notes: list[str] = []
    located: Located | None = None
    if "semantics" in levels:
        level, closeness, notes, failing = _semantics(port, model, originals, tokens, watch)
        if level.status == "fail" and port.cards == 1:
            from porter.verify.bisect import Bisection, locate

            search = Bisection(port, model, originals, _entries(model))
            level, located, more = locate(search, failing, level, bisect, watch)
            notes += more
        elif bisect is not None:
            notes.append(f"nothing fails, so no block was written to {bisect}")
        found.append(level)
    if measured := [name for name in levels if name != "semantics"]:
        others, asked = _measured(port, model, originals, measured, tokens, texts, watch, device, recorder)
        found += others
        notes += [*(texts.notes if texts else ()), *(device.notes() if device else ())]
        notes += [recorder.write(asked.source)] if recorder and asked else []
        if "distribution" in levels and not stages.resident:
            notes.append("no drift was looked for: a decode token by token would read the model once a token")
    return Ran(tuple(found), closeness, asked, tuple(notes), located)


def _stages(model: Model, layers: str | None, memory: str | None) -> tuple[Stages, list[str]]:
    """What is in memory at once, and what that means for the verdict."""
    count, notes = model.config.num_hidden_layers, []
    only = None if layers is None else parse_layers(layers, count)
    stages = plan_stages(model, None if memory is None else parse_size(memory), only)
    if model.family.original:
        kind, its = model.config.model_type, model.family.original
        notes.append(f"transformers has no class for {kind}: the original is run as the {its} that it is a copy of")
    if only is not None:
        left = count - len(stages.layers)
        notes.append(f"a SLICE: layers {layers} were run, one behind the other; nothing is said of {left} others")
    if not stages.resident:
        notes.append(f"the model was read in {len(stages.parts)} parts, none of it kept")
    return stages, notes


def _verifier(public_key: Path | None, levels: Sequence[str]) -> Verifier | None:
    if public_key and "weights" not in levels:
        raise ParityError("the signature is checked at the weights level", "use --level weights or all")
    return Verifier(public_key) if public_key else None


def _weights(port: Port, model: Model, verifier: Verifier | None, watch: Watch) -> Level:
    from porter.verify.weights import check_weights

    signed = _signature(port, verifier, watch) if verifier else ()
    watch("comparing weights")
    level = check_weights(port, model)
    return Level(level.name, (*signed, *level.checks))


def _signature(port: Port, verifier: Verifier, watch: Watch) -> tuple[Check]:
    watch("checking the signature")
    flaws = verifier.flaws(port.folder, port.manifest)
    return (Check.at_most("flaws of the signature", len(flaws), 0, ", ".join(flaws[:5])),)


def _semantics(
    port: Port, model: Model, originals: Originals, tokens: int, watch: Watch
) -> tuple[Level, Closeness | None, list[str], list[Scenario]]:
    from porter.verify.own_weights import check_codes
    from porter.verify.routing import Misfit
    from porter.verify.runs import open_run, open_stage
    from porter.verify.semantics import Semantics
    from porter.verify.session import BrokenPort
    from porter.verify.stories import each_size, stories_of

    stories, notes = stories_of(port, model, tokens)
    every = [*stories, *each_size(port, model, tokens)]
    checks: list[Check] = []
    if port.quantization is not None:
        checks.append(check_codes(port, model, originals.tensors()))
        notes.append(f"the original was given what the {port.quantization} codes mean: their cost is told, not judged")
    watch("loading the original (transformers)")
    exact, own, stages = originals.exact, originals.at("float32"), originals.stages
    try:
        watch("loading the port (ONNX Runtime)")
        open_forced = partial(open_stage, port, model, forced=True)
        sides = Semantics(cache(open_forced) if stages.resident else open_forced, exact, own, _entries(model))
        checks += sides.walk(every, watch)
        if stages.resident:
            watch("greedy decoding")
            free = open_run(port, model, stages, forced=False)
            match, greedy = sides.greedy(free, stories[0].calls[0].input_ids, tokens)
        else:
            match, greedy = sides.first_choices()
    except (BrokenPort, Misfit) as error:
        return Level("semantics", (*checks, _broken(error))), None, notes, every
    if port.dtype != "float32":
        notes.append(f"the port is in {port.dtype}: its graph was widened to float32, node for node, for this level")
    failed = {check.name.partition(": ")[0] for check in checks if check.status == "fail"}
    failing = [story for story in every if story.name in failed]
    return Level("semantics", (*checks, greedy), sides.figures()), sides.closeness(match), notes, failing


def _own_texts(port: Port, model: Model, against: Path, prompts: Path, levels: Sequence[str]) -> Texts:
    """The user's prompts: read before anything else, so that a file that is none costs no time."""
    if not {"dtype", "distribution"} & set(levels):
        raise ParityError("prompts are read at the dtype and distribution levels", "use --level dtype or all")
    check_installed(levels[-1])
    from porter.verify.stories import reach
    from porter.verify.texts import from_file

    return from_file(prompts, against, model.config.vocab_size, reach(port, model))


def _measured(
    port: Port,
    model: Model,
    originals: Originals,
    levels: Sequence[str],
    tokens: int,
    texts: Texts | None,
    watch: Watch,
    device: Runtime | None,
    recorder: Recorder | None,
) -> tuple[list[Level], Asked | None]:
    from porter.verify.measuring import measure_levels
    from porter.verify.prompts import COUNTS, length_within
    from porter.verify.routing import Misfit
    from porter.verify.session import BrokenPort
    from porter.verify.stories import reach
    from porter.verify.texts import bundled

    texts = texts or bundled(originals.folder, model.config.vocab_size, length_within(reach(port, model)), COUNTS)
    try:
        with device or nullcontext():
            entries = _entries(model)
            return measure_levels(port, model, originals, levels, tokens, texts, entries, watch, device, recorder)
    except (BrokenPort, Misfit) as error:
        return [Level(name, (_broken(error),)) for name in levels], None


def _broken(error: Exception) -> Check:
    return Check("calls that the port fails", 1, 0, "fail", str(error))


def _entries(model: Model) -> Callable[..., tuple[np.ndarray, ...]]:
    """How the cache of this model's original looks in a port."""
    return lambda *kept: model.family.original_cache(model.config, *kept)
