"""Where experts are placed: held against all placements in small cases, and against simpler ones in larger."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from placement import skewed

from porter.plan.placement import SIMPLE, SLACK, place, simply
from porter.plan.room import Pieces, Room, bound, cut, loads, traffic

SMALL = [(6, Room(2, 3, 1)), (6, Room(3, 2, 1)), (8, Room(4, 2, 2)), (9, Room(3, 3, 2)), (8, Room(2, 4, 2))]
LARGE = [Room(32, 8, 8), Room(32, 9, 8), Room(16, 16, 16), Room(144, 2, 8), Room(24, 11, 8)]


def drawn(seed: int, experts: int, *, tokens: int = 60, top_k: int = 2) -> np.ndarray:
    """Routes [T, K] of experts that are unlike each other."""
    return skewed(seed, 1.0, tokens=tokens, experts=experts, top_k=top_k, clusters=3)


def pieces_of(routes: np.ndarray, experts: int, room: Room) -> Pieces:
    return cut(np.bincount(routes.reshape(-1), minlength=experts), room)


def every_placement(left: frozenset[int], cards: int, slots: int) -> Iterator[list[frozenset[int]]]:
    """All ways to fill the cards."""
    if cards == 0:
        yield []
        return
    for chosen in combinations(sorted(left), slots):
        for rest in every_placement(left - frozenset(chosen), cards - 1, slots):
            yield [frozenset(chosen), *rest]


def went(routes: np.ndarray, cards: list[frozenset[int]], room: Room) -> Fraction:
    """Other nodes of a token, counted token by token and home by home."""
    where = {expert: card // room.per_node for card, held in enumerate(cards) for expert in held}
    others = [
        len({where[expert] for expert in token} - {home // room.per_node})
        for token in routes.tolist()
        for home in range(room.cards)
    ]
    return Fraction(sum(others), len(others))


# ------------------------------------------------------------------------------ against all placements


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("experts", "room"), SMALL)
def test_small_cases_are_as_even_as_any_placement(experts: int, room: Room, seed: int) -> None:
    """And of those that are as even none keeps tokens on fewer nodes."""
    routes = drawn(seed, experts)
    counts = np.bincount(routes.reshape(-1), minlength=experts)
    every = list(every_placement(frozenset(range(experts)), room.cards, room.slots))
    fullest = [max(sum(int(counts[e]) for e in held) for held in cards) for cards in every]
    least = min(fullest)
    nearest = min(went(routes, cards, room) for cards, full in zip(every, fullest, strict=True) if full == least)
    found = place(routes, experts, room, slack=Fraction(0))
    assert found.bound <= least
    assert (found.most, found.traffic.nodes) == (least, nearest)


# ------------------------------------------------------------------------------ against simpler placements


@pytest.mark.parametrize("skew", [0.0, 1.0])
@pytest.mark.parametrize("room", LARGE, ids=str)
def test_large_cases_are_never_worse_than_simpler_placements(room: Room, skew: float) -> None:
    routes = skewed(7, skew, tokens=512)
    found = place(routes, 256, room)
    for name in SIMPLE:
        other = simply(name, routes, 256, room)
        assert found.most <= other.most
        assert found.traffic.nodes < other.traffic.nodes or room.nodes == 1
    assert found.bound <= found.most <= found.bound * Fraction(106, 100)


def test_load_is_given_up_for_traffic_only_as_far_as_is_allowed() -> None:
    routes = skewed(3, 0.5, tokens=512)
    room = Room(32, 8, 8)
    even, found = place(routes, 256, room, slack=Fraction(0)), place(routes, 256, room)
    assert even.most <= found.most <= even.most * (1 + SLACK)
    assert found.traffic.nodes < even.traffic.nodes


def test_clusters_of_experts_come_to_lie_on_one_node() -> None:
    """Tokens choose within one of two clusters, whose members are every other expert."""
    generator = np.random.default_rng(1)
    members = [generator.permutation(8)[:3] * 2 + n % 2 for n in range(100)]
    found = place(np.array(members), 16, Room(4, 4, 2))
    assert found.traffic.nodes == Fraction(1, 2)  # the cluster's node, which half of the tokens are on
    assert simply("in_order", np.array(members), 16, Room(4, 4, 2)).traffic.nodes > Fraction(1, 2)


def test_the_same_routes_give_the_same_placement() -> None:
    routes = skewed(2, 0.5, tokens=256)
    assert place(routes, 256, Room(32, 9, 8)) == place(routes.copy(), 256, Room(32, 9, 8))


def test_every_expert_has_its_place_and_copies_lie_apart() -> None:
    room = Room(8, 5, 2)
    found = place(drawn(5, 32, tokens=400, top_k=4), 32, room)
    held = [set(card) for card in found.cards]
    assert all(len(card) == len(listed) <= room.slots for card, listed in zip(held, found.cards, strict=True))
    assert set().union(*held) == set(range(32))
    assert sum(map(len, held)) == room.places  # and eight copies
    for expert in range(32):
        nodes = [card // room.per_node for card in range(room.cards) if expert in held[card]]
        assert len(set(nodes)) == len(nodes)


# ------------------------------------------------------------------------------ what is counted


@pytest.mark.parametrize("room", [Room(4, 2, 2), Room(4, 2, 1), Room(3, 3, 2)], ids=str)
def test_how_far_tokens_go_is_counted_token_by_token(room: Room) -> None:
    routes = drawn(1, room.places)
    for found in (place(routes, room.places, room), *(simply(name, routes, room.places, room) for name in SIMPLE)):
        assert found.traffic.nodes == went(routes, [frozenset(card) for card in found.cards], room)


def test_a_copy_serves_its_own_node_first() -> None:
    """One expert, chosen always, with a copy on each of two nodes: nobody goes to another node."""
    room, routes = Room(4, 1, 2), np.zeros((10, 1), np.int64)
    pieces = cut(np.array([10, 0]), room)
    assert pieces.copies.tolist() == [3, 1]
    card = np.array([0, 2, 3, 1])
    found = traffic(pieces, card, routes, room)
    assert (found.nodes, found.cards) == (0, Fraction(1, 4))  # from card 1, which has none
    assert loads(pieces, card, room).tolist() == [20, 0, 10, 10]


def test_copies_halve_what_they_share() -> None:
    """40 of 70 tokens go to one expert of four: with two copies a card has 20 of them, and that is the bound."""
    routes = np.repeat(np.arange(4), [40, 10, 10, 10])[:, None]
    assert place(routes, 4, Room(2, 2, 2)).most == 50
    found = place(routes, 4, Room(2, 3, 2))
    assert (found.most, found.bound, found.mean) == (35, 35, 35)


def test_the_bound_knows_what_has_to_share_a_card() -> None:
    """Three heavy experts on two cards of two: two of them lie together."""
    pieces = cut(np.array([10, 9, 8, 1]), Room(2, 2, 2))
    assert bound(pieces, Room(2, 2, 2)) == 2 * (9 + 8)  # tokens x cards
