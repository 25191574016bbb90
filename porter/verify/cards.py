"""A port for several cards as a port for each: its folder, its part of the manifest, its share of the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from porter.layout import Layout
from porter.manifest import Port
from porter.model import Model, shared_out
from porter.order import folder_of


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
