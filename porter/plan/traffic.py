"""What goes over the links, in whole bytes: the one place where it is counted.

The bytes of an exchange are those that leave one rank for another, of all ranks of the group together. A ring that adds
up the copies of `n` ranks moves the tensor `n - 1` times on the way in and `n - 1` times on the way out, whatever the
pieces.

`exchanges` says what one token causes on its way through a split model:

| what | how often | bytes each time |
|---|---|---|
| embedding, by vocabulary over tp | once | all-reduce of the hidden state |
| attention's output, by heads over tp | every layer | all-reduce of the hidden state |
| MLP's or experts' output, by columns over tp | every layer | all-reduce of the hidden state |
| dispatch to the groups that hold its experts | every layer with experts | copies x tp x hidden, as it is multiplied |
| combine of what they made of it | every layer with experts | copies x tp x hidden, as it is added up |
| hidden state to the next stage | pp - 1 times | tp x hidden |
| logits, by vocabulary over tp | once | all-gather of the vocabulary |

`exchanges_of_copies` says the same of a split port as ONNX graphs have it, whose tokens are the same on all cards of a
stage: no dispatch, but what a card's experts add is summed over ep, and each ep group does the rest for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Kind = Literal["all-reduce", "all-gather", "all-to-all", "send"]
Axis = Literal["tp", "ep", "pp"]


def all_reduce(ranks: int, payload: int) -> int:
    """Every rank has `payload` bytes, and all have their sum: 2 (n - 1) times the payload."""
    return 2 * (ranks - 1) * payload


def reduce_scatter(ranks: int, payload: int) -> int:
    """Every rank has `payload` bytes, and each has its part of the sum: n - 1 times the payload."""
    return (ranks - 1) * payload


def all_gather(ranks: int, whole: int) -> int:
    """Every rank has its part of `whole` bytes, and all have the whole: n - 1 times the whole, however it is cut."""
    return (ranks - 1) * whole


def all_to_all(copies: int, payload: int) -> int:
    """`copies` ranks other than its own get a token's `payload` bytes."""
    return copies * payload


def send(payload: int) -> int:
    """One rank hands `payload` bytes to one other."""
    return payload


@dataclass(frozen=True)
class Sizes:
    """What the traffic of one token hangs on: counts of numbers and of layers, bytes of a number.

    `activation` is what a hidden state has per number, `dispatched` what it has when it goes to experts. Of the layers
    with experts `shared_layers` have some that see every token.
    """

    hidden: int
    vocabulary: int
    layers: int
    expert_layers: int
    shared_layers: int
    activation: int
    dispatched: int


@dataclass(frozen=True)
class Exchange:
    """One kind of exchange on a token's way: `bytes` each time, of all ranks of the group, `times` times.

    `copies` is how many other groups of ep a token goes to, where it is an all-to-all: a whole number of routes that
    are known, an expectation of those that are not.
    """

    name: str
    kind: Kind
    axis: Axis
    ranks: int
    times: int
    bytes: int
    copies: int | Fraction = 1

    @property
    def total(self) -> int | Fraction:
        """Bytes for one token on its way through the whole model."""
        return self.times * self.bytes * self.copies


def exchanges(sizes: Sizes, tp: int, ep: int, pp: int, copies: int | Fraction) -> tuple[Exchange, ...]:
    """What one token causes that is decoded by ep groups of tp ranks, in each of pp stages."""
    state = sizes.hidden * sizes.activation
    found: list[Exchange] = []
    if tp > 1:
        added = all_reduce(tp, state)
        found.append(Exchange("embedding", "all-reduce", "tp", tp, 1, added))
        found.append(Exchange("attention output", "all-reduce", "tp", tp, sizes.layers, added))
        found.append(Exchange("mlp output", "all-reduce", "tp", tp, sizes.layers, added))
    if ep > 1 and sizes.expert_layers:
        there, back = all_to_all(tp, sizes.hidden * sizes.dispatched), all_to_all(tp, state)
        found.append(Exchange("dispatch", "all-to-all", "ep", ep, sizes.expert_layers, there, copies))
        found.append(Exchange("combine", "all-to-all", "ep", ep, sizes.expert_layers, back, copies))
    if pp > 1:
        found.append(Exchange("next stage", "send", "pp", pp, pp - 1, tp * send(state)))
    if tp > 1:
        whole = sizes.vocabulary * sizes.activation
        found.append(Exchange("logits", "all-gather", "tp", tp, 1, all_gather(tp, whole)))
    return tuple(found)


def exchanges_of_copies(sizes: Sizes, tp: int, ep: int, pp: int) -> tuple[Exchange, ...]:
    """What one token causes on tp * ep cards in each of pp stages that all compute it."""
    state, found = sizes.hidden * sizes.activation, list[Exchange]()
    if tp > 1:
        added, summed = ep * all_reduce(tp, state), sizes.layers - sizes.expert_layers + sizes.shared_layers
        found.append(Exchange("embedding", "all-reduce", "tp", tp, 1, added))
        found.append(Exchange("attention output", "all-reduce", "tp", tp, sizes.layers, added))
        found.append(Exchange("mlp output", "all-reduce", "tp", tp, summed, added))
    if ep > 1:  # before what the shared experts add, which is cut over tp alone
        found.append(Exchange("experts", "all-reduce", "ep", ep, sizes.shared_layers, tp * all_reduce(ep, state)))
    if tp * ep > 1:
        alone, added = sizes.expert_layers - sizes.shared_layers, all_reduce(tp * ep, state)
        found.append(Exchange("experts alone", "all-reduce", "ep", tp * ep, alone, added))
    if pp > 1:
        found.append(Exchange("next stage", "send", "pp", pp, pp - 1, tp * ep * send(state)))
    if tp > 1:
        whole = sizes.vocabulary * sizes.activation
        found.append(Exchange("logits", "all-gather", "tp", tp, 1, ep * all_gather(tp, whole)))
    return tuple(exchange for exchange in found if exchange.times)


def bytes_per_token(found: tuple[Exchange, ...]) -> int | Fraction:
    """All of it together."""
    return sum((exchange.total for exchange in found), start=0)


def expected_bins(bins: int, chosen: int, of: int, groups: int = 1, top_groups: int = 1) -> Fraction:
    """In how many bins other than its own a token has one of its `chosen` experts.

    `of` experts lie evenly in `bins` and all are as likely; with routing by groups all that are chosen lie in
    `top_groups` of `groups`, and neighbours lie in the same bin.

    Within reach are r bins with e experts; each has none of those chosen with the chance of the draws that miss it, and
    one of `bins` is the token's own. Experts that lie in several bins are each chosen in one of them.
    """
    limited = groups > 1 and bins % groups == 0
    reach, experts = (
        (Fraction(bins * top_groups, groups), of * top_groups // groups) if limited else (Fraction(bins), of)
    )
    none = Fraction(1)
    for n in range(chosen):
        none *= max(Fraction(0), (experts - Fraction(of, bins) - n) / (experts - n))
    found = reach * (1 - none)
    if groups > 1 and not limited:
        found = min(found, Fraction(max(1, bins // groups) * top_groups))
    return min(found, Fraction(chosen)) * (bins - 1) / bins
