"""How long what goes over the links takes: bandwidth and latency, within a node and between nodes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from porter.plan.demand import Demand, Routed
from porter.plan.form import Form
from porter.plan.split import Placed, Split, Stage
from porter.plan.traffic import Exchange, Sizes, exchanges, expected_bins
from porter.target import Link

STEPS = {"all-reduce": 2, "all-gather": 1, "all-to-all": 1, "send": 1}  # messages that have to wait for each other


@dataclass(frozen=True)
class Fabric:
    """What joins the cards of a device. What is not known costs no time here and is named in a plan."""

    link: Link | None

    @property
    def node(self) -> int | None:
        """How many cards are joined by the fast link; None where nobody says, and then all are taken to be."""
        return self.link.cards if self.link else None

    @property
    def within(self) -> float | None:
        """Bytes per second that leave one card, each way; where nobody says which, each way: a bound."""
        if self.link is None or self.link.bandwidth is None:
            return None
        return self.link.bandwidth / (self.link.directions or 1)

    @property
    def between(self) -> float | None:
        return self.link.between_nodes if self.link else None

    def among(self, ranks: int) -> float | None:
        """Bytes per second that leave a card for `ranks - 1` others: in a full mesh it has a wire to each card."""
        if self.within is None or not self._meshed or not self.node:
            return self.within
        return self.within * min(1.0, (ranks - 1) / (self.node - 1))

    @property
    def _meshed(self) -> bool:
        return bool(self.link and self.link.topology and self.link.topology.startswith("full mesh"))

    def missing(self, split: Split) -> tuple[str, ...]:
        """The facts that the time of this split's exchanges would need and that nobody states."""
        if split.cards == 1:
            return ()
        if self.link is None:
            return ("link",)
        facts = {"link.bandwidth": self.within}
        if self.node is None:
            facts["link.cards"] = None
        elif split.cards > self.node:
            facts["link.between_nodes"] = self.between
            facts["link.latency_between_nodes"] = self.link.latency_between_nodes
        facts["link.latency"] = self.link.latency
        facts["link.directions"] = self.link.directions
        return tuple(name for name, fact in facts.items() if fact is None)

    def seconds(self, sent: float, ranks: int, steps: int, *, far: bool) -> float:
        """Time in which one card sends so many bytes, in so many messages one after the other."""
        if self.link is None:
            return 0.0
        bandwidth = self.between if far else self.among(ranks)
        latency = self.link.latency_between_nodes if far else self.link.latency
        return (sent / bandwidth if bandwidth else 0.0) + steps * (latency or 0.0)


@dataclass(frozen=True)
class Reach:
    """To how many other groups a token goes: all in all, and how many other nodes; it goes to a node once."""

    groups: Fraction
    nodes: Fraction


def reach(routed: Routed, split: Split, node: int | None) -> Reach:
    """Expected with experts that are all as likely."""
    rule = (routed.top_k, routed.count, routed.groups, routed.top_groups)
    per_node = max(1, node // split.tp) if node else split.ep
    nodes = -(-split.ep // per_node)
    groups = expected_bins(split.ep, *rule)
    return Reach(groups, min(groups, expected_bins(nodes, *rule)) if nodes > 1 else Fraction(0))


@dataclass(frozen=True)
class Timed:
    """An exchange of one stage and the seconds that it takes, all its times together."""

    exchange: Exchange
    seconds: float


@dataclass(frozen=True)
class Wires:
    """The exchanges of a placed model on a fabric."""

    placed: Placed
    fabric: Fabric

    @cached_property
    def reach(self) -> Reach:
        found = next((layer.routed for layer in self.placed.demand.kinds if layer.routed), None)
        nowhere = Reach(Fraction(0), Fraction(0))
        return reach(found, self.placed.split, self.fabric.node) if found and self.placed.split.ep > 1 else nowhere

    @cached_property
    def whole(self) -> tuple[Exchange, ...]:
        """What one token causes on its way through the model."""
        split, demand = self.placed.split, self.placed.demand
        return exchanges(sizes_of(demand, self.placed.form), split.tp, split.ep, split.pp, self.reach.groups)

    def timed(self, stage: Stage, tokens: float, outputs: float) -> list[Timed]:
        """The exchanges of one stage for `tokens` of every group, of which `outputs` have logits."""
        layers = sum(count for _, count in stage.layers)
        routed = sum(count for layer, count in stage.layers if layer.routed)
        found = []
        for exchange in self.whole:
            times = {"embedding": stage.first, "logits": stage.last, "next stage": not stage.last}.get(
                exchange.name, routed if exchange.axis == "ep" else layers
            )
            count = outputs if exchange.name == "logits" else tokens
            if times:
                found.append(Timed(exchange, times * self._seconds(exchange, count)))
        return found

    def _seconds(self, exchange: Exchange, tokens: float) -> float:
        """One time, of one card."""
        split, fabric, steps = self.placed.split, self.fabric, STEPS[exchange.kind]
        if exchange.axis == "tp":
            return fabric.seconds(tokens * exchange.bytes / split.tp, split.tp, steps, far=False)
        each = tokens * exchange.bytes / split.tp
        if exchange.axis == "pp":
            far = bool(fabric.node and split.tp * split.ep >= fabric.node)
            return fabric.seconds(each, 2, steps, far=far)
        near, far_copies = float(self.reach.groups - self.reach.nodes), float(self.reach.nodes)
        inside = fabric.seconds(each * near, min(split.cards, fabric.node or split.cards), steps, far=False)
        outside = fabric.seconds(each * far_copies, split.ep, steps, far=True) if far_copies else 0.0
        return max(inside, outside)  # a node's own wires work while its network card does


def sizes_of(demand: Demand, form: Form) -> Sizes:
    """What the traffic of one token hangs on."""
    routed = [demand.kinds[kind] for kind in demand.order if demand.kinds[kind].routed]
    shared = [layer for layer in routed if any(w.share == "cut" for w in layer.mlp)]
    counts = (len(demand.order), len(routed), len(shared))
    return Sizes(demand.hidden, demand.vocabulary, *counts, form.activation, form.dispatched)
