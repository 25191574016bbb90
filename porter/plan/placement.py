"""Experts where the traffic is: on which cards the experts of a layer lie, for tokens whose routes are known.

**Objective**, layer by layer: first the expected load of the fullest card, tokens x share, as small as can be; then the
expected number of other nodes that a token goes to, while no card is more than SLACK fuller than that, nor by more than
half of what was gained over simpler placements. Counts of a sample are not known better than to that, and without it
hardly two experts could change their places.

**Bound**: no placement has a fullest card below `room.bound`. How far the result is from it is told (`gap`); of the
traffic no bound is known that says much.

**Search**: exchanges of places from several starts, those of the simpler placements among them; so the result is never
worse than any of these: its fullest card is no fuller, and where one of them is as even, tokens go to no more nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from porter.plan import pack
from porter.plan.balance import Shelf, even, evened, shake
from porter.plan.near import gather
from porter.plan.room import Pieces, Room, Traffic, bound, cut, loads, traffic

SLACK = Fraction(1, 100)
SEED = 20251125
WORK = 2**22  # numbers that are looked at together, where a small case is searched from several starts
MOST, SHAKEN = 32, 6  # of these at most, each shaken so often
SIMPLE: dict[str, Callable[[Pieces, Room], np.ndarray]] = {
    "in_order": pack.in_order,
    "round_robin": pack.round_robin,
    "greedy": pack.greedy,
}


@dataclass(frozen=True)
class Laid:
    """The experts of one layer on cards, and what that costs: loads in tokens, `mean` and `bound` beside the `most`."""

    cards: tuple[tuple[int, ...], ...]
    most: Fraction
    mean: Fraction
    bound: Fraction
    traffic: Traffic

    @property
    def gap(self) -> Fraction:
        """By which part of the bound the fullest card is above it."""
        return self.most / self.bound - 1


def place(routes: np.ndarray, experts: int, room: Room, slack: Fraction = SLACK) -> Laid:
    """The best placement found for routes [T, K] of so many experts. The same every time."""
    pieces = cut(np.bincount(routes.reshape(-1), minlength=experts), room)

    def fullest(card: np.ndarray) -> int:
        return int(loads(pieces, card, room).max())

    simple = [find(pieces, room) for find in SIMPLE.values()]
    starts = [Shelf(pieces, room, card) for card in (simple[0], pack.apart(pieces, room))]
    shelves = evened(starts, bound(pieces, room), SEED)
    cards = [*(shelf.cards() for shelf in shelves), *simple]
    most = min(map(fullest, cards))
    gained = min(map(fullest, simple)) - most
    allowed = min(int(most * (1 + slack)), most + gained // 2)
    if room.nodes > 1:  # neighbours are chosen together where routers choose by groups: from in_order, if that is even
        first = next((shelf for shelf in shelves if shelf.load.max() <= allowed), None)
        for shelf in _others(first, allowed, WORK // (room.places**2 * len(routes))) if first else ():
            gather(shelf, pieces, routes, allowed)
            cards.append(shelf.cards())
    every = [weighed(pieces, card, routes, room) for card in cards if fullest(card) <= allowed]
    return min(every, key=lambda laid: (laid.traffic.nodes, laid.most, laid.traffic.cards))


def _others(first: Shelf, allowed: int, count: int) -> Iterator[Shelf]:
    """Where to gather from: the first, and as many others that are even enough."""
    generator, every = np.random.default_rng(SEED), np.arange(first.room.cards)
    yield first.copy()
    for _ in range(min(count, MOST)):
        shelf = first.copy()
        for _ in range(SHAKEN):
            shake(shelf, generator)
        even(shelf, every, allowed)
        if shelf.load.max() <= allowed:
            yield shelf


def simply(name: str, routes: np.ndarray, experts: int, room: Room) -> Laid:
    """One of the SIMPLE placements, to compare with."""
    pieces = cut(np.bincount(routes.reshape(-1), minlength=experts), room)
    return weighed(pieces, SIMPLE[name](pieces, room), routes, room)


def weighed(pieces: Pieces, card: np.ndarray, routes: np.ndarray, room: Room) -> Laid:
    """What it costs to have the pieces on these cards [P]."""
    load = loads(pieces, card, room)
    lists = tuple(tuple(int(e) for e in pieces.expert[card == c]) for c in range(room.cards))
    most, least = (Fraction(whole, room.cards) for whole in (int(load.max()), bound(pieces, room)))
    mean = Fraction(int(load.sum()), room.cards**2)
    return Laid(lists, most, mean, least, traffic(pieces, card, routes, room))
