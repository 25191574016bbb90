"""Evens out the load of cards: exchanges of places that make the fullest card less full, until none does.

A place that is empty takes part as a piece of no weight. Copies of an expert stay on different cards, and on different
nodes where its copies are no more than these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from porter.plan.room import Pieces, Room

KICKS = 24  # times that a search which is stuck is begun again from a few exchanges at random
PAIRS = 2**21  # exchanges of two for two that are looked at together at most


class Shelf:
    """A placement under way: what lies in each place [cards, slots], and the load of each card."""

    def __init__(self, pieces: Pieces, room: Room, card: np.ndarray) -> None:
        count = len(pieces.expert)
        self.room, self.count = room, count
        self.weight = np.append(pieces.weight, 0)
        self.expert = np.append(pieces.expert, len(pieces.counts))
        self.place = np.full((room.cards, room.slots), count)  # `count` is nobody
        number = np.zeros(room.cards, np.int64)
        for piece, where in enumerate(card):
            self.place[where, number[where]] = piece
            number[where] += 1
        self.copied = np.append(pieces.copies > 1, False)
        self._by_node = np.append(pieces.copies <= room.nodes, True)
        self._on_card = np.zeros((len(self.copied), room.cards), np.int64)
        np.add.at(self._on_card, (self.expert[:-1], card), 1)
        self._on_node = np.zeros((len(self.copied), room.nodes), np.int64)
        np.add.at(self._on_node, (self.expert[:-1], room.node_of[card]), 1)
        self.load = self.weight[self.place].sum(axis=1)

    def copy(self) -> Shelf:
        """Another, to be changed."""
        found = object.__new__(Shelf)
        found.__dict__ |= self.__dict__
        for name in ("place", "_on_card", "_on_node", "load"):
            setattr(found, name, getattr(self, name).copy())
        return found

    def cards(self) -> np.ndarray:
        """Where each piece lies [P]."""
        found = np.empty(self.count + 1, np.int64)
        found[self.place] = np.arange(self.room.cards)[:, None]
        return found[:-1]

    def barred(self, piece: np.ndarray, here: np.ndarray, there: np.ndarray) -> np.ndarray:
        """Which pieces may not go from a card to another, for another copy of its expert lies there; broadcast."""
        expert, node_of = self.expert[piece], self.room.node_of
        card = self._on_card[expert, there] > 0
        node = self._on_node[expert, node_of[there]] - (node_of[here] == node_of[there]) > 0
        return self.copied[expert] & (card | (node & self._by_node[expert]))

    def swap(self, one: tuple[int, int], other: tuple[int, int]) -> None:
        """Exchanges what lies in two places."""
        (a, i), (b, j) = one, other
        for piece, here, there in ((self.place[one], a, b), (self.place[other], b, a)):
            expert, weight = self.expert[piece], self.weight[piece]
            for counts, start, end in (
                (self._on_card, here, there),
                (self._on_node, self.room.node_of[here], self.room.node_of[there]),
            ):
                counts[expert, start] -= 1
                counts[expert, end] += 1
            self.load[here] -= weight
            self.load[there] += weight
        self.place[a, i], self.place[b, j] = self.place[b, j], self.place[a, i]


def even(shelf: Shelf, cards: np.ndarray, enough: int = 0) -> None:
    """Exchanges among these cards until none makes the fullest of them less full, or it is full `enough`."""
    while True:
        full = int(cards[shelf.load[cards].argmax()])
        if shelf.load[full] <= enough or not (_one_for_one(shelf, full, cards) or _two_for_two(shelf, full, cards)):
            return


def _one_for_one(shelf: Shelf, full: int, cards: np.ndarray) -> bool:
    others = cards[cards != full]
    if not len(others):
        return False
    mine, theirs = shelf.place[full], shelf.place[others]  # [s], [c, s]
    moved = shelf.weight[mine][:, None, None] - shelf.weight[theirs]  # [s, c, s]
    worst = np.maximum(shelf.load[full] - moved, shelf.load[others][:, None] + moved)
    barred = shelf.barred(mine[:, None], np.array(full), others)[:, :, None] | shelf.barred(
        theirs, others[:, None], np.array(full)
    )
    worst[barred] = shelf.load[full]
    i, c, j = np.unravel_index(int(worst.argmin()), worst.shape)
    if worst[i, c, j] >= shelf.load[full]:
        return False
    shelf.swap((full, int(i)), (int(others[c]), int(j)))
    return True


def _two_for_two(shelf: Shelf, full: int, cards: np.ndarray) -> bool:
    """Of experts without copies, where these are not too many exchanges to be looked at."""
    first, second = np.triu_indices(shelf.room.slots, 1)
    others = cards[cards != full]
    if not len(others) or len(first) ** 2 * len(others) > PAIRS:
        return False
    fixed = shelf.copied[shelf.expert[shelf.place]]  # [cards, slots]
    weights = shelf.weight[shelf.place]
    sums, held = weights[:, first] + weights[:, second], fixed[:, first] | fixed[:, second]
    moved = sums[full][:, None, None] - sums[others]  # [q, c, q]
    worst = np.maximum(shelf.load[full] - moved, shelf.load[others][:, None] + moved)
    worst[held[full]] = shelf.load[full]
    worst[:, held[others]] = shelf.load[full]
    p, c, q = np.unravel_index(int(worst.argmin()), worst.shape)
    if worst[p, c, q] >= shelf.load[full]:
        return False
    for slots in (first, second):
        shelf.swap((full, int(slots[p])), (int(others[c]), int(slots[q])))
    return True


def evened(starts: Sequence[Shelf], enough: int, seed: int) -> list[Shelf]:
    """The starts, evened out; the best of them shaken for as long as it is not full `enough`."""
    cards = np.arange(starts[0].room.cards)
    for shelf in starts:
        even(shelf, cards, enough)
    fullest = [int(shelf.load.max()) for shelf in starts]
    which = fullest.index(min(fullest))
    best, generator = starts[which], np.random.default_rng(seed)
    for _ in range(KICKS):
        if best.load.max() <= enough:
            break
        shaken = best.copy()
        shake(shaken, generator)
        even(shaken, cards, enough)
        if shaken.load.max() < best.load.max():
            best = shaken
    return [best if n == which else shelf for n, shelf in enumerate(starts)]


def shake(shelf: Shelf, generator: np.random.Generator) -> None:
    """A few exchanges at random, one with the fullest card among them."""
    cards, slots = shelf.place.shape
    for card in (int(shelf.load.argmax()), *generator.integers(0, cards, 2)):
        one, other = (int(card), int(generator.integers(slots))), tuple(map(int, generator.integers(0, (cards, slots))))
        here, there = np.array(one[0]), np.array(other[0])
        if here != there and not (
            shelf.barred(shelf.place[one], here, there) or shelf.barred(shelf.place[other], there, here)
        ):
            shelf.swap(one, (other[0], other[1]))
