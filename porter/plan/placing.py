"""The experts of all layers on the cards of a split, as a plan's JSON has it, and as a file that others may follow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from porter.errors import TargetError
from porter.package.files import replace_file
from porter.plan.links import sizes_of
from porter.plan.placement import SIMPLE, Laid, place, simply
from porter.plan.room import Room
from porter.plan.routes import Routes
from porter.plan.search import Found
from porter.plan.traffic import bytes_per_token, exchanges

SCHEMA_VERSION = 1
Line = dict[str, str]


@dataclass
class Placer:
    """Places for every split that asks, and remembers: splits of one ep on nodes of one size have the same answer."""

    routes: Routes
    _known: dict[Room, dict[str, list[Laid]]] = field(default_factory=dict)

    def placement(self, found: Found) -> dict[str, Any] | None:
        """Of the best split of a candidate; None where it has no groups that experts are divided over.

        A card stands for a group of tp cards, each of which has its part of the columns of the group's experts.
        """
        split, node = found.split, found.roofline.machine.fabric.node
        if split.ep == 1:
            return None
        per_node = max(1, node // split.tp) if node else split.ep
        room = Room(split.ep, found.roofline.placed.experts_held, min(per_node, split.ep))
        laid = self._laid(room)
        copies = _mean([one.traffic.cards for one in laid["placed"]])
        placed = found.roofline.placed
        sent = exchanges(sizes_of(placed.demand, placed.form), split.tp, split.ep, split.pp, copies)
        return {
            "tokens": self.routes.tokens,
            "side": self.routes.side,
            "prompts": self.routes.prompts,
            "routes_sha256": self.routes.sha256,
            "experts": self.routes.experts,
            "cards": room.cards,
            "nodes": room.nodes,
            "cards_per_node": room.per_node,
            "slots": room.slots,
            "replicas": room.slots * room.cards - self.routes.experts,
            **_told(laid["placed"]),
            "link_bytes_per_token": round(float(bytes_per_token(sent)), 1),
            "simple": {name: _told(laid[name]) for name in SIMPLE},
            "layers": [
                {"layer": layer, **_told([one]), "experts": [list(card) for card in one.cards]}
                for layer, one in zip(self.routes.layers, laid["placed"], strict=True)
            ],
        }

    def _laid(self, room: Room) -> dict[str, list[Laid]]:
        if room not in self._known:
            routes, experts = self.routes.layers.values(), self.routes.experts
            found = {name: [simply(name, chosen, experts, room) for chosen in routes] for name in SIMPLE}
            self._known[room] = {"placed": [place(chosen, experts, room) for chosen in routes], **found}
        return self._known[room]


def _told(layers: Sequence[Laid]) -> dict[str, Any]:
    """Of some layers, which wait for each other: so the loads of their fullest cards add up, and so do their bounds."""
    most, mean, least = (sum((getattr(one, name) for one in layers), Fraction(0)) for name in ("most", "mean", "bound"))
    return {
        "load": {
            "max": float(most),
            "mean": float(mean),
            "max_over_mean": float(most / mean),
            "bound": float(least),
            "gap": float(most / least - 1),
        },
        "traffic": {
            "cards": float(_mean([one.traffic.cards for one in layers])),
            "nodes": float(_mean([one.traffic.nodes for one in layers])),
        },
    }


def _mean(values: Sequence[Fraction]) -> Fraction:
    return sum(values, start=Fraction(0)) / len(values)


def explained(placement: Mapping[str, Any]) -> list[Line]:
    """Its numbers with their formulas, as those of a candidate have them."""
    load, traffic, simple = placement["load"], placement["traffic"], placement["simple"]
    source = f"{placement['prompts']} prompts, routes of the {placement['side']}"
    others = ", ".join(f"{name.replace('_', ' ')} {one['load']['max_over_mean']:.3f}" for name, one in simple.items())
    farther = ", ".join(f"{name.replace('_', ' ')} {one['traffic']['nodes']:.3f}" for name, one in simple.items())
    of = f"{placement['tokens']} tokens, {placement['experts']} experts and {placement['replicas']} copies of them on "
    lines = [
        (
            "experts: fullest card over mean",
            f"{load['max_over_mean']:.4f}",
            f"{of}{placement['cards']} cards, tokens x share, summed over layers; {others}",
        ),
        (
            "experts: above the bound",
            f"{load['gap']:.2%}",
            "the bound is the largest of: all over the cards, the heaviest piece, the heaviest that share a card",
        ),
        (
            "experts: other nodes of a token",
            f"{traffic['nodes']:.4f}",
            f"of {placement['nodes']}, expected, tokens from every card alike; {farther}",
        ),
        (
            "experts: bytes over links of a token",
            f"{placement['link_bytes_per_token']:,.0f} bytes",
            f"all exchanges, with {traffic['cards']:.4f} other groups a layer as these routes have it",
        ),
    ]
    return [{"what": what, "value": value, "formula": formula, "source": source} for what, value, formula in lines]


def write_placement(path: Path, result: Mapping[str, Any]) -> None:
    """Where the experts of a plan with one candidate lie, as JSON; docs/experts.md says what is in it.

    Raises TargetError where there is no such candidate, or several, and where the file cannot be written.
    """
    found = [c for c in result["candidates"] if c.get("placement")]
    if len(found) != 1:
        message = f"--save-placement is for one split, and {len(found)} of this plan have a placement of experts"
        raise TargetError(message, "give --routes, one --target and one number of --cards, or --ep above 1")
    (candidate,) = found
    placement = candidate["placement"]
    kept = ("routes_sha256", "experts", "cards", "cards_per_node", "slots", "replicas")
    document = {
        "schema_version": SCHEMA_VERSION,
        "model_type": result["model_type"],
        **{name: candidate[name] for name in ("device", "tp", "ep", "pp")},
        **{name: placement[name] for name in kept},
        "layers": {str(layer["layer"]): layer["experts"] for layer in placement["layers"]},
    }
    try:
        replace_file(path.parent, path.name, (json.dumps(document) + "\n").encode())
    except OSError as error:
        raise TargetError(f"'{path}' cannot be written: {error.strerror}", "choose another place") from error
