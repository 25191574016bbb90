"""The least time that a step can take: operations over rate, bytes over bandwidth, and what goes over the links.

Five parts of a stage are looked at: projections of attention, attention on the cache, MLPs with shared experts and
router, routed experts, output projection. A part takes the longer of its operations and its memory; parts wait for
each other, so they add up. Links work beside the card, as systems with two micro-batches have it: a step takes the
longer of card and links. What nothing overlaps would take stands beside it (`in_turn`).

It is a bound and no forecast: kernels reach their rates, every expert is as likely, nothing waits for the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from porter.plan.demand import Attention, Layer, Weights
from porter.plan.form import BYTES, Form, Rate, rate_of
from porter.plan.links import Fabric, Timed, Wires
from porter.plan.split import Placed, Stage, Work
from porter.target import Device

Phase = Literal["prefill", "decode"]
Bound = Literal["compute", "memory", "links"]


@dataclass(frozen=True)
class Part:
    """One part of a stage on one card: what it multiplies and reads, and the seconds of each."""

    name: str
    operations: float
    bytes: float
    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory)


@dataclass(frozen=True)
class Step:
    """One stage's work on one micro-batch: `tokens` of each group."""

    phase: Phase
    stage: Stage
    tokens: float
    parts: tuple[Part, ...]
    links: tuple[Timed, ...]

    @cached_property
    def card(self) -> float:
        return sum(part.seconds for part in self.parts)

    @cached_property
    def wires(self) -> float:
        return sum(timed.seconds for timed in self.links)

    @property
    def seconds(self) -> float:
        """With links beside the card."""
        return max(self.card, self.wires)

    @property
    def in_turn(self) -> float:
        """With nothing beside anything else."""
        return self.wires + sum(part.compute + part.memory for part in self.parts)

    @property
    def bound(self) -> Bound:
        """What the step waits for."""
        if self.wires >= self.card:
            return "links"
        memory = sum(part.seconds for part in self.parts if part.memory >= part.compute)
        return "memory" if 2 * memory >= self.card else "compute"


@dataclass(frozen=True)
class Machine:
    """A device with its rates for a form. Raises nothing: `device` has memory and bandwidth."""

    device: Device
    form: Form
    fabric: Fabric

    @cached_property
    def rates(self) -> dict[str, Rate | None]:
        dtypes = {self.form.multiplied, self.form.wide, "float32"}
        return {dtype: rate_of(self.device, dtype) for dtype in sorted(dtypes)}

    def compute(self, operations: float, dtype: str) -> float:
        """Seconds; none where no rate is known."""
        rate = self.rates[dtype]
        return operations / rate.value if rate else 0.0

    def memory(self, read: float) -> float:
        """Seconds to read so many bytes."""
        assert self.device.memory_bandwidth is not None
        return read / self.device.memory_bandwidth


@dataclass(frozen=True)
class Roofline:
    """A placed model on a machine."""

    placed: Placed
    machine: Machine

    @cached_property
    def wires(self) -> Wires:
        return Wires(self.placed, self.machine.fabric)

    def step(self, phase: Phase, sequences: float, work: Work, *, links: bool = True) -> Step:
        """The slowest stage's step on one micro-batch of `sequences` of each group.

        In prefill each is a prompt, of which what is not cached is computed; in decode each is one token, or as many
        as are drafted ahead and one. Less than one is a group that has one in some of its micro-batches only.
        """
        steps = (self._step(phase, stage, sequences, work, links) for stage in self.placed.stages)
        return max(steps, key=lambda step: step.seconds)

    def _step(self, phase: Phase, stage: Stage, sequences: float, work: Work, links: bool) -> Step:
        each = work.computed if phase == "prefill" else work.stepped
        everyone, sequences = max(1.0, sequences * self.placed.split.ep) * each, max(1.0, sequences)
        tokens = sequences * each
        outputs = sequences if phase == "prefill" else tokens
        parts: dict[str, Part] = {}
        for layer, count in stage.layers:
            for part in self._layer(phase, layer, sequences, tokens, everyone, work):
                _add(parts, part, count)
        if stage.last:
            _add(parts, self._weights("output projection", (self.placed.demand.head,), outputs), 1)
        timed = tuple(self.wires.timed(stage, tokens, outputs)) if links else ()
        return Step(phase, stage, tokens, tuple(parts.values()), timed)

    def _layer(
        self, phase: Phase, layer: Layer, sequences: float, tokens: float, everyone: float, work: Work
    ) -> list[Part]:
        parts = [
            self._weights("attention projections", layer.projections, tokens, layer.attention),
            self._attention(phase, layer.attention, sequences, tokens, work),
            self._weights("mlp and shared experts", layer.mlp, tokens),
        ]
        return [*parts, self._experts(layer, everyone)] if layer.routed else parts

    def _weights(
        self, name: str, weights: tuple[Weights, ...], tokens: float, attention: Attention | None = None
    ) -> Part:
        """Matrices that every token of the group meets."""
        form, operations, read, compute = self.machine.form, 0.0, 0.0, 0.0
        for w in weights:
            share = self.placed.share(w, attention)
            done = 2.0 * tokens * w.met / share
            operations, compute = operations + done, compute + self.machine.compute(done, form.rate_of(w.store))
            read += w.numbers / share * float(form.bytes_of(w.store))
        return Part(name, operations, read, compute, self.machine.memory(read))

    def _attention(self, phase: Phase, attention: Attention, sequences: float, tokens: float, work: Work) -> Part:
        """Scores and mixing; decode reads the cache, prefill takes the cheaper form of a latent and reads it once."""
        if phase == "decode":
            each, held = attention.absorbed(work.context), attention.seen(work.context)
        else:
            each = min(attention.absorbed(work.mean_context), attention.expanded(work.mean_context))
            held = work.prompt
        operations = tokens * each / min(self.placed.split.tp, attention.heads)
        width = attention.width / self.placed.cache_share(attention)
        read = sequences * held * width * float(BYTES[self.machine.form.cache])
        form = self.machine.form
        return Part(
            "attention", operations, read, self.machine.compute(operations, form.wide), self.machine.memory(read)
        )

    def _experts(self, layer: Layer, everyone: float) -> Part:
        """The experts that a rank holds: their share of all groups' tokens, and those that are read at all.

        An expert is left alone by n tokens with the chance (1 - top_k / experts) ** n.
        """
        routed, split, form = layer.routed, self.placed.split, self.machine.form
        assert routed is not None
        operations = 2.0 * everyone * routed.top_k / split.ep * routed.numbers / split.tp
        places = max(routed.count, self.placed.experts_held * split.ep)
        met = self.placed.experts_held * (1 - (1 - routed.top_k / places) ** everyone)
        read = met * routed.numbers / split.tp * float(form.bytes_of("asked"))
        compute = self.machine.compute(operations, form.multiplied)
        return Part("routed experts", operations, read, compute, self.machine.memory(read))


def _add(parts: dict[str, Part], part: Part, count: int) -> None:
    """Adds a layer's part, `count` times, to the stage's part of that name."""
    old = parts.get(part.name, Part(part.name, 0.0, 0.0, 0.0, 0.0))
    parts[part.name] = Part(
        part.name,
        old.operations + count * part.operations,
        old.bytes + count * part.bytes,
        old.compute + count * part.compute,
        old.memory + count * part.memory,
    )
