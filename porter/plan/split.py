"""How a model lies on cards: tp x ep x pp of them, and what each holds.

One of `pp` stages is `ep` groups of `tp` ranks. Within a group attention, MLPs and the vocabulary are cut over tp; each
group has sequences of its own (data-parallel attention), so that a latent cache, which cannot be cut by heads, is not
held twice. The experts of a layer are divided over the ep groups, and the columns of each over tp.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from porter.plan.demand import Attention, Demand, Layer, Weights
from porter.plan.form import BYTES, Form

PASS = 8192  # tokens of a group that prefill takes at once, or one prompt where that is longer


@dataclass(frozen=True)
class Split:
    """Ranks of tensor parallelism, groups of expert parallelism, stages of the pipeline."""

    tp: int
    ep: int
    pp: int

    @property
    def cards(self) -> int:
        return self.tp * self.ep * self.pp


@dataclass(frozen=True)
class Stage:
    """The layers of one pipeline stage, equal ones counted; whether it has the embedding and the output projection."""

    layers: tuple[tuple[Layer, int], ...]
    first: bool
    last: bool


@dataclass(frozen=True)
class Work:
    """What is asked of the system: tokens in the cache of a sequence that is decoded, tokens of a prompt.

    `cached` is the part of a prompt's tokens that another prompt has left in the cache. With multi-token prediction
    a sequence gains `accepted` tokens in a step, for which as many are drafted ahead as that takes.
    """

    context: int
    prompt: int
    cached: float = 0.0
    accepted: float = 1.0

    @property
    def stepped(self) -> int:
        """Tokens of a sequence that a step of decode computes: those drafted ahead, and one."""
        return math.ceil(self.accepted)

    @property
    def prompts(self) -> int:
        """Prompts that a group prefills at once."""
        return max(1, PASS // self.prompt)

    @property
    def computed(self) -> float:
        """Tokens of a prompt that are computed."""
        return self.prompt * (1 - self.cached)

    @property
    def mean_context(self) -> float:
        """How many tokens a computed token of a prompt attends to, itself among them."""
        return self.prompt * self.cached + (self.computed + 1) / 2


@dataclass(frozen=True)
class Placed:
    """A model on a split, in a form: what its ranks hold, to the byte; where experts are divided, with places
    more for copies of them, `replicas` of each card.
    """

    demand: Demand
    form: Form
    split: Split
    replicas: int = 0

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The distinct stages: layers in order, the first stages one more where they do not come out even."""
        demand, pp = self.demand, self.split.pp
        each, more = divmod(len(demand.layers), pp)
        found, start = [], 0
        for n in range(pp):
            count = each + (n < more)
            kinds = Counter(demand.order[start : start + count])
            layers = tuple((demand.kinds[kind], number) for kind, number in kinds.items())
            found.append(Stage(layers, n == 0, n == pp - 1))
            start += count
        return tuple(dict.fromkeys(found))

    def share(self, weights: Weights, attention: Attention | None = None) -> int:
        """Over how many ranks such weights are cut."""
        if weights.share == "whole":
            return 1
        return self.cache_share(attention) if weights.share == "groups" and attention else self.split.tp

    def cache_share(self, attention: Attention) -> int:
        """Over how many ranks of a group a layer's cache is cut: by key and value heads; a latent is whole on each."""
        return min(self.split.tp, attention.groups)

    @property
    def experts_held(self) -> int:
        """Experts of a layer on one group; where they do not divide, some groups have a spare place for a copy."""
        more = self.replicas if self.split.ep > 1 else 0
        return min(self.demand.experts, -(-self.demand.experts // self.split.ep) + more)

    @cached_property
    def held(self) -> tuple[tuple[Stage, int, int], ...]:
        """Each distinct stage with the bytes of its weights, and of the cache of one token, on one rank."""
        return tuple((stage, self.weight_bytes(stage), self.cache_bytes(stage)) for stage in self.stages)

    def weight_bytes(self, stage: Stage) -> int:
        """Bytes of the weights of one rank."""
        total = self._bytes(self.demand.tables)
        for layer, count in stage.layers:
            held = sum((self._bytes(w, layer.attention) for w in (*layer.projections, *layer.mlp)), start=Fraction(0))
            if layer.routed:
                numbers = Fraction(layer.routed.numbers * self.experts_held, self.split.tp)
                held += numbers * self.form.bytes_of("asked")
            total += count * held
        demand = self.demand
        total += self._bytes(demand.norm) if stage.last else 0
        total += self._bytes(demand.table) if stage.first or (stage.last and demand.tied) else 0
        total += self._bytes(demand.head) if stage.last and not demand.tied else 0
        return -(-total.numerator // total.denominator)

    def _bytes(self, weights: Weights, attention: Attention | None = None) -> Fraction:
        return Fraction(weights.numbers, self.share(weights, attention)) * self.form.bytes_of(weights.store)

    def cache_bytes(self, stage: Stage) -> int:
        """Bytes of the cache of one token on one rank."""
        each = BYTES[self.form.cache]
        total = sum(
            (
                Fraction(layer.attention.width * count, self.cache_share(layer.attention))
                for layer, count in stage.layers
            ),
            start=Fraction(0),
        )
        return -(-(total * each).numerator // (total * each).denominator)

    def workspace_bytes(self, stage: Stage, tokens: int, outputs: int) -> int:
        """Bytes of the activations of a pass: hidden state, its norm, a residual and a sum of each token, and the
        widest MLP, at the wide dtype; logits of what is put out, in float32.
        """
        demand, tp = self.demand, self.split.tp
        held = tokens * (4 * demand.hidden + -(-demand.widest // tp)) * self.form.activation
        return held + (outputs * -(-demand.vocabulary // tp) * 4 if stage.last else 0)

    def bytes_per_card(self, sequences: int, work: Work) -> int:
        """The most that any rank holds when its group decodes `sequences`, over all of the pipeline's micro-batches."""
        passed, tokens = -(-sequences // self.split.pp), work.prompt * work.prompts
        return max(
            weights
            + sequences * work.context * cache
            + max(self.workspace_bytes(stage, passed, passed), self.workspace_bytes(stage, tokens, work.prompts))
            for stage, weights, cache in self.held
        )

    def most_sequences(self, memory: int, work: Work) -> int:
        """The most sequences of a group that fit on every rank, in whole micro-batches; 0 where not even one does."""
        pp, low, high = self.split.pp, 0, 1
        while self.bytes_per_card(high * pp, work) <= memory:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.bytes_per_card(middle * pp, work) <= memory else (low, middle)
        return low * pp


def splits(demand: Demand, cards: int, within: int | None) -> Iterable[Split]:
    """Every split of a model over so many cards whose sizes divide: heads, columns and vocabulary by tp, experts by ep.

    A group of tp ranks stays within a node of `within` cards: what it adds up, it adds up twice a layer.
    """
    for tp in _divisors(cards):
        if (within and tp > within) or not divides(demand, tp):
            continue
        for ep in _divisors(cards // tp):
            pp = cards // tp // ep
            if pp <= len(demand.layers) and (ep == 1 or (demand.experts and not _left(demand.experts, ep))):
                yield Split(tp, ep, pp)


def misfit(demand: Demand, split: Split) -> str | None:
    """Why a split that is asked for cannot be, with the next size that can."""
    if not divides(demand, split.tp):
        following = next((n for n in range(split.tp + 1, 2 * demand.vocabulary) if divides(demand, n)), 1)
        return f"tp = {split.tp} does not divide heads, columns and vocabulary; the next that does is {following}"
    if split.ep > 1 and not demand.experts:
        return f"ep = {split.ep}, and the model has no routed experts"
    layers = len(demand.order)
    return f"pp = {split.pp} is more than the {layers} layers" if split.pp > layers else None


def divides(demand: Demand, tp: int) -> bool:
    """Whether every size that is cut over tp comes out even; key and value heads may be fewer than ranks."""
    heads = {layer.attention.heads for layer in demand.kinds}
    groups = {layer.attention.groups for layer in demand.kinds}
    even = all(size % tp == 0 for size in (*heads, *demand.columns, demand.vocabulary))
    return even and all(g % tp == 0 or tp % g == 0 for g in groups)


def _left(experts: int, ep: int) -> int:
    """What is left where experts are divided over groups, or groups over experts: copies of all of them alike."""
    return experts % ep if ep <= experts else ep % experts


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
