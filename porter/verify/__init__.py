"""The story of a verification: open both sides, look at the weights, then walk port and original side by side."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from porter.errors import ParityError
from porter.port import Model, Port, open_port, understand
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
    tokens: int = 8,
    watch: Watch = lambda stage: None,
) -> ParityReport:
    """Compares a port with the checkpoint that it was made from; decodes `tokens` tokens greedily.

    Raises PortError, CheckpointError or FamilyError where one of them cannot be read, and ParityError where the
    comparison cannot be made.
    """
    begun = time.monotonic()
    port = open_port(folder)
    watch("reading the checkpoint's headers")
    model = understand(against, port.manifest.get("attention") or "auto")
    if port.manifest["family"] != model.family.name:
        message = f"the port is of family {port.manifest['family']}, the checkpoint of {model.family.name}"
        raise ParityError(message, "give the checkpoint that the port was made from")
    found: list[Level] = []
    closeness: Closeness | None = None
    notes: list[str] = []
    if "weights" in levels:
        from porter.verify.weights import check_weights

        watch("comparing weights")
        found.append(check_weights(port, model))
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


def _semantics(
    port: Port, model: Model, against: Path, tokens: int, watch: Watch
) -> tuple[Level, Closeness | None, list[str]]:
    from porter.verify.weights import sound_pointers

    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ParityError(
            f"the semantics level needs {', '.join(missing)}", "pip install 'porter[verify]', or --level weights"
        )
    if not sound_pointers(port):
        check = Check(
            "not run: weights do not lie where the graph points", 1, 0, "inconclusive", "see the weights level"
        )
        return Level("semantics", (check,)), None, []
    watch("loading the original (transformers)")
    from porter.verify.original import Original
    from porter.verify.semantics import Semantics
    from porter.verify.session import PortSession

    exact, own = Original(against, "float64"), Original(against, "float32")
    watch("loading the port (ONNX Runtime)")
    forced, free = PortSession(port, model, forced=True), PortSession(port, model, forced=False)
    sides = Semantics(forced, exact, own, lambda k, v: model.family.original_cache(model.config, k, v))
    stories, notes = _stories(model, tokens)
    checks: list[Check] = []
    for story in stories:
        watch(story.name)
        checks += sides.walk(story)
    watch("greedy decoding")
    match, greedy = sides.greedy(free, model.config.vocab_size, tokens)
    if port.dtype != "float32":
        notes.append(f"the port is in {port.dtype}: its graph was widened to float32, node for node, for this level")
    return Level("semantics", (*checks, greedy)), sides.closeness(match), notes


def _stories(model: Model, tokens: int) -> tuple[list[Scenario], list[str]]:
    from porter.verify.scenarios import scenarios

    rotation, window = model.network.model.rotary_emb, model.network.window()
    boundaries = sorted({b for b in rotation.rope.boundaries() if b <= model.config.max_position_embeddings})
    stories = scenarios(model.config.vocab_size, boundaries, rotation.unbounded, window, tokens)
    longest = max(sum(c.input_ids.shape[1] for c in s.calls) for s in stories)
    unseen = window is not None and longest <= window
    return stories, [f"no prompt is longer than the sliding window of {window}: it was not left"] if unseen else []
