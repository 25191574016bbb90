"""Bytes over links, counted by hand and by moving them."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import pytest
from models import DEEPSEEK_V3, demand, machine

from porter.plan.links import sizes_of
from porter.plan.traffic import (
    Sizes,
    all_gather,
    all_reduce,
    bytes_per_token,
    exchanges,
    exchanges_of_copies,
    expected_bins,
    reduce_scatter,
)

SMALL = Sizes(hidden=64, vocabulary=1000, layers=4, expert_layers=3, shared_layers=2, activation=2, dispatched=1)


def ring(ranks: int, pieces: list[int], rounds: int) -> int:
    """Bytes that a ring moves: in each round every rank hands one piece to its neighbour."""
    return sum(pieces[(rank - turn) % ranks] for turn in range(rounds) for rank in range(ranks))


@pytest.mark.parametrize("pieces", [[8, 8], [3, 3, 2], [25, 25, 25, 25], [1, 0, 0, 0, 0]])
def test_collectives_move_what_a_ring_moves(pieces: list[int]) -> None:
    ranks, whole = len(pieces), sum(pieces)
    assert reduce_scatter(ranks, whole) == ring(ranks, pieces, ranks - 1)
    assert all_gather(ranks, whole) == ring(ranks, pieces, ranks - 1)
    assert all_reduce(ranks, whole) == ring(ranks, pieces, 2 * (ranks - 1))


def test_one_card_sends_nothing() -> None:
    assert exchanges(SMALL, 1, 1, 1, 0) == ()


def test_tensor_parallelism_by_hand() -> None:
    """4 layers on 2 ranks: nine sums of 64 numbers, each there and back, and the half of 1000 logits to the other."""
    found = {e.name: e.total for e in exchanges(SMALL, 2, 1, 1, 0)}
    once = 2 * 1 * 64 * 2
    assert found == {
        "embedding": once,
        "attention output": 4 * once,
        "mlp output": 4 * once,
        "logits": 2 * (500 * 2),
    }


def test_expert_parallelism_by_hand() -> None:
    """To two other groups and back, in 3 layers: 64 numbers of a byte there, of two bytes back."""
    found = {e.name: e.total for e in exchanges(SMALL, 1, 4, 1, 2)}
    assert found == {"dispatch": 3 * 2 * 64, "combine": 3 * 2 * 64 * 2}


def test_the_pipeline_by_hand() -> None:
    (found,) = exchanges(SMALL, 1, 1, 4, 0)
    assert (found.kind, found.total) == ("send", 3 * 64 * 2)


def test_products_have_all_of_it() -> None:
    """Each rank of a group sends what it holds, which after a sum is the whole hidden state."""
    split = exchanges(SMALL, 2, 2, 2, 1)
    tp, ep, pp = (exchanges(SMALL, *axes) for axes in ((2, 1, 1, 0), (1, 2, 1, 1), (1, 1, 2, 0)))
    assert bytes_per_token(split) == bytes_per_token(tp) + 2 * bytes_per_token(ep) + 2 * bytes_per_token(pp)


def test_whole_routes_give_whole_bytes() -> None:
    assert all(isinstance(e.total, int) for e in exchanges(SMALL, 2, 4, 2, 3))


def test_deepseek_v3_by_hand() -> None:
    """8 groups of one card: FP8 there, bfloat16 back, in 58 of 61 layers; 4 of 8 groups of experts are in reach."""
    sizes = sizes_of(demand(DEEPSEEK_V3), machine("nvidia-h100", DEEPSEEK_V3).form)
    assert (sizes.layers, sizes.expert_layers, sizes.activation, sizes.dispatched) == (61, 58, 2, 1)
    assert bytes_per_token(exchanges(sizes, 1, 8, 1, 4)) == 58 * 4 * 7168 * (1 + 2)


@pytest.mark.parametrize(
    ("bins", "chosen", "experts", "groups", "top_groups"),
    [(2, 2, 6, 1, 1), (3, 2, 6, 1, 1), (6, 3, 6, 1, 1), (4, 2, 8, 4, 2), (8, 3, 8, 4, 2), (4, 1, 8, 4, 1)],
)
def test_how_far_a_token_goes_is_counted_over_all_choices(
    bins: int, chosen: int, experts: int, groups: int, top_groups: int
) -> None:
    """Over every set of groups, every set of experts within them, and every bin that a token may come from."""
    size, each, counted, ways = experts // groups, experts // bins, 0, 0
    for reach in combinations(range(groups), top_groups):
        within = [e for group in reach for e in range(group * size, (group + 1) * size)]
        for found in combinations(within, chosen):
            hit = {e // each for e in found}
            for own in range(bins):
                counted, ways = counted + len(hit - {own}), ways + 1
    assert expected_bins(bins, chosen, experts, groups, top_groups) == Fraction(counted, ways)


def test_bins_that_hold_several_groups_are_no_more_than_are_in_reach() -> None:
    assert expected_bins(2, 8, 256, 8, 1) <= 1
    assert expected_bins(320, 8, 256, 8, 4) <= 8


# ------------------------------------------------------------------------------ all cards of a stage have all tokens


def test_where_all_cards_have_all_tokens_nothing_is_dispatched() -> None:
    """4 layers: a dense one, two with shared experts, one with routed experts alone; 2 x 2 cards in 2 stages."""
    found = {e.name: e.total for e in exchanges_of_copies(SMALL, 2, 2, 2)}
    two, four = 2 * 1 * 64 * 2, 2 * 3 * 64 * 2
    assert found == {
        "embedding": 2 * two,
        "attention output": 4 * 2 * two,
        "mlp output": 3 * 2 * two,
        "experts": 2 * 2 * two,
        "experts alone": four,
        "next stage": 4 * 64 * 2,
        "logits": 2 * 1000 * 2,
    }


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (4, 3), (1, 4)])
def test_without_groups_of_experts_both_are_the_same(tp: int, pp: int) -> None:
    """A group of one has no copies and dispatches nothing."""
    one, other = exchanges(SMALL, tp, 1, pp, 0), exchanges_of_copies(SMALL, tp, 1, pp)
    assert bytes_per_token(one) == bytes_per_token(other)
