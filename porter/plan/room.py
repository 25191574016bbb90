"""Where the experts of a layer may lie, what a placement costs, and what no placement can be below.

A layer has places: `cards` of `slots` each, as many cards to a node. An expert lies in one of them, or in several as
copies. Which copy a token is given is settled by the card that it comes from: the cards are dealt to an expert's copies
evenly, each copy first its own card, then those of its own node. So a copy serves a known number of cards, its `homes`,
and carries as large a share of the expert's tokens, of which every card is taken to have as many.

Loads are whole numbers: tokens x cards, what is served of them. A card is a group of tensor parallelism: one card where
nothing is cut over several.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Room:
    """The places of a layer."""

    cards: int
    slots: int
    per_node: int

    @cached_property
    def node_of(self) -> np.ndarray:
        """The node of each card [cards]."""
        return np.arange(self.cards) // self.per_node

    @property
    def nodes(self) -> int:
        return -(-self.cards // self.per_node)

    @property
    def places(self) -> int:
        return self.cards * self.slots


@dataclass(frozen=True)
class Pieces:
    """The copies of a layer's experts, in the order of these: whose each is and how many homes it serves, [P] each.
    `counts` are the tokens of each expert [E].
    """

    expert: np.ndarray
    homes: np.ndarray
    counts: np.ndarray

    @cached_property
    def weight(self) -> np.ndarray:
        """What each piece adds to the load of its card [P]."""
        return self.counts[self.expert] * self.homes

    @cached_property
    def copies(self) -> np.ndarray:
        """How many copies each expert has [E]."""
        return np.bincount(self.expert, minlength=len(self.counts))


@dataclass(frozen=True)
class Traffic:
    """To how many others than its own a token goes, on average over tokens and the cards that they come from."""

    cards: Fraction
    nodes: Fraction


def cut(counts: np.ndarray, room: Room) -> Pieces:
    """One piece of each expert, and with places that are left copies: always of the one whose pieces are heaviest, so
    that no choice of copies has a lighter heaviest piece.
    """
    copies = np.ones(len(counts), np.int64)
    for _ in range(room.places - len(counts)):
        heaviest = np.where(copies < room.cards, counts * -(-room.cards // copies), -1)
        best = int(heaviest.argmax())
        if heaviest[best] <= 0:
            break
        copies[best] += 1
    return dealt(copies, counts, room)


def dealt(copies: np.ndarray, counts: np.ndarray, room: Room) -> Pieces:
    """So many copies of each expert, the cards dealt to them evenly."""
    expert = np.repeat(np.arange(len(counts)), copies)
    number = np.concatenate([np.arange(n) for n in copies])
    each, more = np.divmod(room.cards, copies[expert])
    return Pieces(expert, each + (number < more), counts)


def bound(pieces: Pieces, room: Room) -> int:
    """What the fullest card has at least, whatever the placement: the largest of three.

    All that is to be done over the cards, in whole tokens where there are no copies; the heaviest piece; and where
    every place is taken: of the heaviest cards x n + 1 pieces some card has n + 1, and fills up with the lightest.
    """
    weight = np.sort(pieces.weight)[::-1]
    unit = room.cards if (pieces.copies == 1).all() else 1
    least = max(-(-int(weight.sum()) // (room.cards * unit)) * unit, int(weight[0]))
    if len(weight) < room.places:
        return least
    for n in range(room.slots):
        first, rest = room.cards * n, room.slots - 1 - n
        heavy = weight[first - n : first + 1] if n else weight[:1]
        least = max(least, int(heavy.sum() + weight[len(weight) - rest :].sum() * bool(rest)))
    return least


def loads(pieces: Pieces, card: np.ndarray, room: Room) -> np.ndarray:
    """Of each card [cards], with the pieces on these cards [P]."""
    found = np.zeros(room.cards, np.int64)
    np.add.at(found, card, pieces.weight)
    return found


def deal(pieces: Pieces, card: np.ndarray, room: Room) -> np.ndarray:
    """For tokens of each expert from each card the piece that they are given: [E, cards]."""
    found = np.empty((len(pieces.counts), room.cards), np.int64)
    found[pieces.expert] = np.arange(len(pieces.expert))[:, None]
    for expert in np.flatnonzero(pieces.copies > 1):
        mine = np.flatnonzero(pieces.expert == expert)
        left, open_ = pieces.homes[mine].copy(), np.ones(room.cards, bool)
        near = room.node_of[:, None] == room.node_of[card[mine]]
        for wanted in (np.arange(room.cards)[:, None] == card[mine], near, np.ones_like(near)):
            for home in np.flatnonzero(open_):
                room_left = np.where(wanted[home], left, 0)
                if room_left.any():
                    copy = int(room_left.argmax())
                    found[expert, home], open_[home] = mine[copy], False
                    left[copy] -= 1
    return found


def traffic(pieces: Pieces, card: np.ndarray, routes: np.ndarray, room: Room) -> Traffic:
    """Exactly, of routes [T, K] and tokens that come from every card alike."""
    given = deal(pieces, card, room)
    if (pieces.copies == 1).all():
        there = card[given[:, 0]][routes]
        found = [_others(there, room.cards, np.ones(room.cards, int))]
        found.append(_others(room.node_of[there], room.nodes, np.bincount(room.node_of)))
    else:
        found = [0, 0]
        for home in range(room.cards):
            there = card[given[:, home]][routes]
            found[0] += _beside(there, home)
            found[1] += _beside(room.node_of[there], int(room.node_of[home]))
    return Traffic(*(Fraction(int(total), len(routes) * room.cards) for total in found))


def _others(there: np.ndarray, bins: int, sizes: np.ndarray) -> int:
    """Distinct bins of each token [T, K] other than its own, summed over all the cards that it may come from."""
    hit = np.zeros((len(there), bins), bool)
    np.put_along_axis(hit, there, True, axis=1)
    return int(hit.sum() * sizes.sum() - (hit * sizes).sum())


def _beside(there: np.ndarray, own: int) -> int:
    """Distinct bins of each token [T, K] other than this, summed."""
    ordered = np.sort(there, axis=1)
    new = np.ones_like(ordered, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return int((new & (ordered != own)).sum())
