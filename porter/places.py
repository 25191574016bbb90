"""Experts in other places than their numbers say: what `porter plan --save-placement` wrote, followed by a port.

A router goes on choosing by the numbers that the checkpoint has: its groups of neighbours stay what they are, and what
it chose can be compared. Behind it a table tells in which place an expert lies; the experts' weights are stacked in the
order of the places, and a card of expert parallelism holds a range of these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from porter.blocks.decoder import Decoder
from porter.blocks.moe import Experts
from porter.errors import FamilyError
from porter.weights import Binding, Piece, Weight

Places = Mapping[str, list[int]]  # of a layer, by its number, the expert in each place

HINT = "`porter plan --routes --save-placement` writes such a file"


def read_places(path: Path | None, ep: int) -> dict[str, list[int]] | None:
    """What a file of a plan says, if one is named, for so many groups of cards. Raises FamilyError where it is none,
    has copies, which a port has no places for, or is for another number of groups.
    """
    if path is None:
        return None
    try:
        document = json.loads(path.read_bytes())
        layers = {str(int(n)): [list(map(int, card)) for card in cards] for n, cards in document["layers"].items()}
        copies, groups = int(document["replicas"]), int(document["ep"])
    except OSError as cause:
        raise FamilyError(f"{path} cannot be read: {cause.strerror}", HINT) from cause
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as cause:
        raise FamilyError(f"{path} is no placement of experts", HINT) from cause
    if copies:
        raise FamilyError(f"{path} has {copies} copies of experts, and a port has each once", "plan without --replicas")
    if ep not in (1, groups):
        raise FamilyError(f"{path} is for --ep {groups}, not {ep}", "plan for the split that is converted")
    return {n: [expert for card in cards for expert in card] for n, cards in layers.items()}


def arrange(network: Decoder, places: Places) -> None:
    """Tells the blocks where experts lie. Raises FamilyError where that are not the experts of this model."""
    routed = {
        str(n): layer.mlp.experts for n, layer in enumerate(network.model.layers) if hasattr(layer.mlp, "experts")
    }
    if routed.keys() != places.keys():
        raise FamilyError("the placement is of other layers than have experts here", "give this model's own")
    for n, experts in routed.items():
        assert isinstance(experts, Experts)
        if sorted(places[n]) != list(range(experts.everyone)):
            message = f"layer {n}: the placement does not have each of {experts.everyone} experts once"
            raise FamilyError(message, "give this model's own")
        experts.places = tuple(places[n])


def arranged(binding: Binding, network: Decoder) -> Binding:
    """The binding of a network that was arranged, as a whole: its experts' weights in the order of their places."""
    order: dict[str, tuple[int, ...]] = {}
    for layer in network.model.layers:
        experts: Any = getattr(layer.mlp, "experts", None)
        if experts is not None and experts.places is not None:
            order |= {parameter.name: experts.places for parameter in (experts.gate_up_proj, experts.down_proj)}
    weights = tuple(_moved(w, order[w.parameter.name]) if w.parameter.name in order else w for w in binding.weights)
    return replace(binding, weights=weights)


def _moved(weight: Weight, places: tuple[int, ...]) -> Weight:
    """Pieces are one for all experts, which is taken apart, or as many for each."""
    pieces, count = weight.pieces, len(places)
    if len(pieces) == 1:
        (whole,) = pieces
        pieces = tuple(Piece(whole.source, whole.shape, n, n + 1) for n in range(count))
    each = len(pieces) // count
    return replace(weight, pieces=tuple(p for e in places for p in pieces[e * each : (e + 1) * each]))
