"""The best split of a model over so many cards: every split that divides, best first, until a bound ends the search.

A split's **bound** is what it reaches with links that take no time, as many sequences as fit, and no limit on the time
of a token. Links can only add to a step, and a step's time per sequence never rises with more of them: weights are read
once for all, experts are read at most once each, the rest is proportional. Splits are taken in the order of their
bounds; when the next one's bound is no more than what was reached, nothing that is left can reach more. So the answer
is that of looking at all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from porter.plan.demand import Demand
from porter.plan.roofline import Machine, Phase, Roofline, Step
from porter.plan.split import Placed, Split, Work, splits

Limit = Literal["memory", "time", "asked"]


@dataclass(frozen=True)
class Ask:
    """What is asked of a plan beside the work: sequences of the whole system, seconds of an output token, and
    places of a card for copies of experts.
    """

    work: Work
    batch: int | None = None
    slo: float | None = None
    phase: Phase = "decode"
    replicas: int = 0


@dataclass(frozen=True)
class Found:
    """A split with what it reaches; `sequences` are those of one group, `limit` what keeps them from being more."""

    roofline: Roofline
    ask: Ask
    sequences: float
    limit: Limit

    @property
    def split(self) -> Split:
        return self.roofline.placed.split

    @property
    def whole(self) -> int:
        """The most sequences that any group has."""
        return math.ceil(self.sequences)

    @property
    def micro_batch(self) -> float:
        """Sequences of one group that go through a stage together, on average."""
        return self.sequences / self.split.pp

    @cached_property
    def decode(self) -> Step:
        """One micro-batch through the slowest stage."""
        return self.roofline.step("decode", self.micro_batch, self.ask.work)

    @cached_property
    def prefill(self) -> Step:
        return self.roofline.step("prefill", self.ask.work.prompts, self.ask.work)

    def decode_rate(self, seconds: float) -> float:
        """Tokens per second of the system when a micro-batch takes so long at the slowest stage."""
        return self.sequences * self.ask.work.accepted / self.split.pp * self.split.ep / seconds

    def prefill_rate(self, seconds: float) -> float:
        """Tokens of prompts per second, those that were cached among them."""
        return self.ask.work.prompts * self.ask.work.prompt * self.split.ep / seconds

    @property
    def reached(self) -> float:
        """What the search is for: tokens per second in the phase that is asked for."""
        if self.ask.phase == "decode":
            return self.decode_rate(self.decode.seconds)
        return self.prefill_rate(self.prefill.seconds)

    @property
    def seconds_per_token(self) -> float:
        """Of a sequence: once through all stages, for as many tokens as a step gains."""
        return self.decode.seconds * self.split.pp / self.ask.work.accepted


@dataclass(frozen=True)
class Searched:
    """The best that was found, None where nothing fits, and how much was looked at."""

    best: Found | None
    splits: int
    evaluated: int


def search(demand: Demand, machine: Machine, cards: int, ask: Ask, pinned: Split | None = None) -> Searched:
    """The best split over so many cards, or what the pinned one reaches."""
    every = [pinned] if pinned else list(splits(demand, cards, machine.fabric.node))
    lines = [Roofline(Placed(demand, machine.form, split, ask.replicas), machine) for split in every]
    bounded = [(bound, line) for line in lines if (bound := _bound(line, ask))]
    best: Found | None = None
    evaluated = 0
    for bound, line in sorted(bounded, key=lambda entry: -entry[0]):
        if best and bound <= best.reached:
            break
        evaluated += 1
        found = within(line, ask)
        if found and (best is None or found.reached > best.reached):
            best = found
    return Searched(best, len(every), evaluated)


def within(line: Roofline, ask: Ask) -> Found | None:
    """What a split reaches with the sequences that are asked for, or that memory and time allow; None for none."""
    split = line.placed.split
    most = _room(line, ask)
    if ask.batch is not None:
        found = Found(line, ask, ask.batch / split.ep, "asked")
        fits = math.ceil(found.sequences / split.pp) * split.pp <= most
        return found if fits and _in_time(found) else None
    if not most:
        return None
    found = Found(line, ask, most, "memory")
    if _in_time(found):
        return found
    low, high = 0, most // split.pp  # micro-batches: none is always in time, `high` never
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _in_time(Found(line, ask, middle * split.pp, "time")) else (low, middle)
    return Found(line, ask, low * split.pp, "time") if low else None


def _in_time(found: Found) -> bool:
    return found.ask.slo is None or found.seconds_per_token <= found.ask.slo


def _room(line: Roofline, ask: Ask) -> int:
    """The most sequences of one group that memory has room for."""
    memory = line.machine.device.memory_bytes
    assert memory is not None
    return line.placed.most_sequences(memory, ask.work)


def _bound(line: Roofline, ask: Ask) -> float:
    """What a split cannot exceed; 0 where it does not fit, or is late with a single sequence and links for nothing."""
    split = line.placed.split
    least = 1.0 if ask.batch is None else min(1.0, ask.batch / split.ep / split.pp)
    if ask.slo and line.step("decode", least, ask.work, links=False).seconds * split.pp / ask.work.accepted > ask.slo:
        return 0.0
    most = _room(line, ask)
    sequences = most if ask.batch is None else ask.batch / split.ep
    if not most or sequences > most:
        return 0.0
    found = Found(line, ask, sequences, "memory")
    if ask.phase == "prefill":
        return found.prefill_rate(line.step("prefill", ask.work.prompts, ask.work, links=False).seconds)
    return found.decode_rate(line.step("decode", found.micro_batch, ask.work, links=False).seconds)
