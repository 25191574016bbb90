"""The story of a verification: open both sides, look at the weights, then walk port and original side by side."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from porter.census import census
from porter.errors import ParityError
from porter.manifest import Port, open_port
from porter.model import Model, understand
from porter.sign import Verifier
from porter.verify.report import Check, Closeness, Level, ParityReport

if TYPE_CHECKING:
    from porter.verify.original import Originals, Precision

LEVELS = ("weights", "semantics", "dtype", "distribution")
NEEDED = ("onnxruntime", "torch", "transformers")

Watch = Callable[[str], None]


def verify(
    folder: Path,
    against: Path,
    *,
    levels: Sequence[str] = LEVELS,
    public_key: Path | None = None,
    tokens: int = 8,
    watch: Watch = lambda stage: None,
) -> ParityReport:
    """Compares a port with the checkpoint that it was made from; decodes `tokens` tokens greedily. With a public key
    its signature must hold, too.

    Raises PortError, CheckpointError or FamilyError where one of them cannot be read, and ParityError where the
    comparison cannot be made.
    """
    begun = time.monotonic()
    verifier = _verifier(public_key, levels)
    port = open_port(folder)
    watch("reading the checkpoint's headers")
    model = understand(against, port.manifest.get("attention") or "auto", port.quantization)
    _check_related(port, model)
    found: list[Level] = []
    closeness: Closeness | None = None
    notes: list[str] = []
    if "weights" in levels:
        from porter.verify.weights import check_weights

        signed = _signature(port, verifier, watch) if verifier else ()
        watch("comparing weights")
        level = check_weights(port, model)
        found.append(Level(level.name, (*signed, *level.checks)))
    if run := [level for level in levels if level != "weights"]:
        if harm := _unfit(port, model, run):
            found += harm
        else:
            from porter.verify.original import Originals
            from porter.verify.own_weights import own_weights

            originals = Originals(against, own_weights(port, model))
            if "semantics" in levels:
                level, closeness, notes = _semantics(port, model, originals, tokens, watch)
                found.append(level)
            found += _measured(port, model, originals, [name for name in run if name != "semantics"], tokens, watch)
    return ParityReport(
        port=str(folder),
        against=str(against),
        target=str(port.manifest["target"]),
        dtype=port.dtype,
        levels=tuple(found),
        closeness=closeness,
        seconds=time.monotonic() - begun,
        notes=tuple(notes),
    )


def _verifier(public_key: Path | None, levels: Sequence[str]) -> Verifier | None:
    if public_key and "weights" not in levels:
        raise ParityError("the signature is checked at the weights level", "use --level weights or all")
    return Verifier(public_key) if public_key else None


def _signature(port: Port, verifier: Verifier, watch: Watch) -> tuple[Check]:
    watch("checking the signature")
    flaws = verifier.flaws(port.folder, port.manifest)
    return (Check.at_most("flaws of the signature", len(flaws), 0, ", ".join(flaws[:5])),)


def _check_related(port: Port, model: Model) -> None:
    """Raises ParityError for a checkpoint of another family or other sizes: there is nothing to compare then."""
    sizes = census(model.network)
    pairs = {"family": model.family.name, "parameters": sizes.parameters, "layers": sizes.layers}
    for name, theirs in (pairs | {"cache_width": sizes.cache_width}).items():
        if port.manifest[name] != theirs:
            message = f"the port has {name.replace('_', ' ')} {port.manifest[name]}, the checkpoint {theirs}"
            raise ParityError(message, "give the checkpoint that the port was made from")


def _unfit(port: Port, model: Model, levels: Sequence[str]) -> list[Level]:
    """The levels that run the port, failed, where it is damaged; raises ParityError where nothing can be run."""
    from porter.verify.weights import damage

    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ParityError(
            f"the {levels[0]} level needs {', '.join(missing)}", "pip install 'porter[verify]', or --level weights"
        )
    harm = damage(port, model)
    check = Check.at_most("damage for which the port was not run", len(harm), 0, ", ".join(harm[:5]))
    return [Level(name, (check,)) for name in levels] if harm else []


def _semantics(
    port: Port, model: Model, originals: Originals, tokens: int, watch: Watch
) -> tuple[Level, Closeness | None, list[str]]:
    from porter.verify.own_weights import check_codes
    from porter.verify.runs import open_run
    from porter.verify.semantics import Semantics
    from porter.verify.session import BrokenPort
    from porter.verify.stories import each_size, stories_of

    stories, notes = stories_of(port, model, tokens)
    checks: list[Check] = []
    if port.quantization is not None:
        checks.append(check_codes(port, model, originals.tensors()))
        notes.append(f"the original was given what the {port.quantization} codes mean: their cost is told, not judged")
    watch("loading the original (transformers)")
    exact, own = originals.exact, originals.at("float32")
    try:
        watch("loading the port (ONNX Runtime)")
        forced, free = open_run(port, model, forced=True), open_run(port, model, forced=False)
        sides = Semantics(forced, exact, own, _entries(model))
        for story in stories:
            watch(story.name)
            checks += sides.walk(story)
        for name, run, story in each_size(forced, model, tokens):
            watch(name)
            checks += sides.of(run).walk(story)
        watch("greedy decoding")
        match, greedy = sides.greedy(free, stories[0].calls[0].input_ids, tokens)
    except BrokenPort as error:
        return Level("semantics", (*checks, _broken(error))), None, notes
    if port.dtype != "float32":
        notes.append(f"the port is in {port.dtype}: its graph was widened to float32, node for node, for this level")
    return Level("semantics", (*checks, greedy)), sides.closeness(match), notes


def _measured(
    port: Port, model: Model, originals: Originals, levels: Sequence[str], tokens: int, watch: Watch
) -> list[Level]:
    """The levels that measure the port at its dtype: one run of everything serves both."""
    if not levels:
        return []
    from porter.verify.benchmark import Benchmark, add_prompts
    from porter.verify.distribution import check_distribution
    from porter.verify.drift import Drift
    from porter.verify.dtype import check_dtype
    from porter.verify.prompts import COUNTS, write_prompts
    from porter.verify.runs import open_run
    from porter.verify.session import BrokenPort
    from porter.verify.stories import reach

    watch(f"loading port and original in {port.dtype}")
    exact, own, found = originals.exact, originals.at(cast("Precision", port.dtype)), Benchmark()
    decided: list[Level] = []
    try:
        session = open_run(port, model, forced=False, deployed=True)
        drift = Drift(port, model, tokens, session, own, exact, _entries(model))
        deciders = {
            "dtype": check_dtype,
            "distribution": lambda found, dtype: drift.added_to(check_distribution(found, dtype), dtype),
        }
        for count in COUNTS:
            watch(f"writing {count} prompts in the original's own words, and reading them on both sides")
            prompts = write_prompts(originals.as_stored(), reach(port, model), count)
            add_prompts(found, prompts, session, own, exact, _entries(model))
            if "distribution" in levels:
                watch("decoding token by token on both sides")
                drift.add(prompts)
            decided = [deciders[name](found, port.dtype) for name in levels]
            if not any(level.open for level in decided):
                break
    except BrokenPort as error:
        return [Level(name, (_broken(error),)) for name in levels]
    return decided


def _broken(error: Exception) -> Check:
    return Check("calls that the port fails", 1, 0, "fail", str(error))


def _entries(model: Model) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]:
    """How the cache of this model's original looks in a port."""
    return lambda keys, values: model.family.original_cache(model.config, keys, values)
