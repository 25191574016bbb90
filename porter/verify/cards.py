"""A port for several cards as a port for each: its folder, its part of the manifest, its share of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porter.errors import ParityError
from porter.layout import Layout
from porter.manifest import Port
from porter.model import Model, shared_out
from porter.order import folder_of
from porter.verify.stages import Stages

if TYPE_CHECKING:
    from porter.verify.runtime import Runtime


def cards_of(port: Port, model: Model) -> list[tuple[Port, Model]]:
    """The port and the model of each card, in order; where there is one, just these."""
    if port.cards == 1:
        return [(port, model)]
    split = port.manifest["split"]
    layout = Layout(split["tp"], split["ep"], split["pp"])
    models = shared_out(model, port.manifest["attention"] or "auto", layout)
    return [(card_of(port, rank), one) for rank, one in enumerate(models)]


def card_of(port: Port, rank: int) -> Port:
    """The port as the card of a rank has it."""
    folder = folder_of(rank)

    def own(part: str) -> list[dict[str, Any]]:
        entries = [e for e in port.manifest[part] if e["file"].startswith(folder)]
        return [e | {"file": e["file"].removeprefix(folder)} for e in entries]

    manifest = port.manifest | {"graphs": own("graphs"), "weights": own("weights"), "files": []}
    return replace(port, folder=port.folder / folder, manifest=manifest)


def on_processes(port: Port, launch: int | None) -> Port:
    """The port to be run by so many processes, where that is asked for. Raises ParityError where they do not fit it."""
    if launch is None:
        return port
    if port.cards == 1:
        raise ParityError("--launch is for ports of several cards, and this one is for one", "leave it out")
    if launch != port.cards:
        raise ParityError(f"--launch {launch} does not fit a port for {port.cards} cards", f"use --launch {port.cards}")
    return replace(port, launched=True)


def on_cards(port: Port, stages: Stages, device: Runtime | None, bisect: Path | None) -> list[str]:
    """How a port for several cards is run. Raises ParityError for parts of it."""
    if port.cards == 1:
        return []
    if device is not None or bisect is not None:
        message = "--runtime, --provider and --bisect are for ports of one card, and this one is for several"
        raise ParityError(message, "leave them out, or convert for one card")
    if len(stages.parts) > 1:
        message = "a port for several cards is run whole, and that needs more memory than there is"
        raise ParityError(message, "leave --layers and --memory out, on a machine with more; or use --level weights")
    how = "by a process each" if port.launched else "in turn, in one process"
    return [f"the port is for {port.cards} cards, which were run {how}"]
