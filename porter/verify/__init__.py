"""The story of a verification: open both sides, look at the weights, then walk port and original side by side."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from porter.census import census
from porter.errors import ParityError
from porter.manifest import Port, open_port
from porter.model import Model, understand
from porter.sign import Verifier
from porter.verify.report import Check, Closeness, Level, ParityReport

if TYPE_CHECKING:
    from porter.verify.scenarios import Scenario

LEVELS = ("weights", "semantics")
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
    if "semantics" in levels:
        level, closeness, notes = _semantics(port, model, against, tokens, watch)
        found.append(level)
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


def _semantics(
    port: Port, model: Model, against: Path, tokens: int, watch: Watch
) -> tuple[Level, Closeness | None, list[str]]:
    from porter.verify.weights import damage

    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ParityError(
            f"the semantics level needs {', '.join(missing)}", "pip install 'porter[verify]', or --level weights"
        )
    if harm := damage(port, model):
        check = Check.at_most("damage for which the port was not run", len(harm), 0, ", ".join(harm[:5]))
        return Level("semantics", (check,)), None, []
    stories = _stories(model, tokens)
    watch("loading the original (transformers)")
    from porter.verify.load import read_checkpoint
    from porter.verify.original import Original
    from porter.verify.own_weights import check_codes, own_weights
    from porter.verify.semantics import Semantics
    from porter.verify.session import BrokenPort, PortSession

    checks: list[Check] = []
    notes: list[str] = []
    if port.quantization is not None:
        checks.append(check_codes(port, model, read_checkpoint(against)[1]))
        notes.append(f"the original was given what the {port.quantization} codes mean: what they cost is not seen here")
    override = own_weights(port, model)
    exact, own = Original(against, "float64", override), Original(against, "float32", override)
    try:
        watch("loading the port (ONNX Runtime)")
        forced, free = PortSession(port, model, forced=True), PortSession(port, model, forced=False)
        sides = Semantics(forced, exact, own, lambda k, v: model.family.original_cache(model.config, k, v))
        for story in stories:
            watch(story.name)
            checks += sides.walk(story)
        watch("greedy decoding")
        match, greedy = sides.greedy(free, stories[0].calls[0].input_ids, tokens)
    except BrokenPort as error:
        return Level("semantics", (*checks, Check("calls that the port fails", 1, 0, "fail", str(error)))), None, notes
    if port.dtype != "float32":
        notes.append(f"the port is in {port.dtype}: its graph was widened to float32, node for node, for this level")
    return Level("semantics", (*checks, greedy)), sides.closeness(match), notes


def _stories(model: Model, tokens: int) -> list[Scenario]:
    from porter.verify.scenarios import SHORTEST, scenarios

    rotation, positions = model.network.model.rotary_emb, model.config.max_position_embeddings
    if not rotation.unbounded and tokens > positions - SHORTEST:
        message = f"{tokens} tokens behind a prompt do not fit into the model's {positions} positions"
        raise ParityError(message, f"use --tokens {max(positions - SHORTEST, 1)} or fewer")
    boundaries = sorted({b for b in rotation.rope.boundaries() if b <= positions})
    limit = None if rotation.unbounded else positions
    return scenarios(model.config.vocab_size, boundaries, limit, model.network.window(), tokens)
