"""Brings together on a node what tokens choose together: exchanges of places of different nodes after which tokens go
to fewer nodes, while no node becomes fuller than allowed, or no card. Evening out the cards of each node, which moves
nothing between nodes, makes room for more of them.
"""

from __future__ import annotations

import numpy as np

from porter.plan.balance import Shelf, even
from porter.plan.room import Pieces, Room, deal

BEST = 96  # exchanges that are tried of those that promise most, before all are looked at anew
ROUNDS = 12


def gather(shelf: Shelf, pieces: Pieces, routes: np.ndarray, most: int) -> None:
    """Exchanges until no more are found: first such that no node carries more than its cards may, which is `most` each,
    then such that no card does. What carries more already goes on, but takes no more.
    """
    room = shelf.room
    chosen = _chosen(pieces, shelf.cards(), routes, room)
    for area in (room.node_of, np.arange(room.cards)):
        for _ in range(ROUNDS):
            if not _Look(shelf, chosen, area, most * np.bincount(area)).exchange():
                break
            for node in range(room.nodes):
                even(shelf, np.flatnonzero(room.node_of == node))
        even(shelf, np.arange(room.cards), most)


def _chosen(pieces: Pieces, card: np.ndarray, routes: np.ndarray, room: Room) -> np.ndarray:
    """Which pieces each token is given, and one more that is nobody: [T, P + 1]. Tokens come from card after card."""
    found = np.zeros((len(routes), len(pieces.expert) + 1), np.float32)
    given = deal(pieces, card, room)[routes, (np.arange(len(routes)) % room.cards)[:, None]]
    np.put_along_axis(found, given, 1, axis=1)
    return found


class _Look:
    """A placement as it is when all exchanges are looked at: Q places, T tokens."""

    def __init__(self, shelf: Shelf, chosen: np.ndarray, area: np.ndarray, most: np.ndarray) -> None:
        room = shelf.room
        self.shelf, self.area, self.most = shelf, area, most
        self.place = shelf.place.reshape(-1).copy()
        self.card = np.repeat(np.arange(room.cards), room.slots)
        self.node = room.node_of[self.card]
        self.here = chosen[:, self.place]  # [T, Q]: what of a token lies in each place
        self.hits = self.here @ np.eye(room.nodes, dtype=np.float32)[self.node]  # [T, nodes]
        # A node costs as many cards as it does not have: from these a token goes to another when it goes there.
        self.cost = (room.cards - np.bincount(room.node_of)).astype(np.float32)

    def exchange(self) -> bool:
        """Makes the exchanges that hold good, the most promising first; whether there was any."""
        gain = self._gains()
        gain[self._closed()] = 0
        first, second = np.triu_indices(len(self.place), 1)
        value = gain[first, second]
        best = np.argsort(value, kind="stable")[:BEST]
        made = [self._try(int(first[n]), int(second[n])) for n in best[value[best] < 0]]
        return any(made)

    def _gains(self) -> np.ndarray:
        """By how much farther tokens go when two places are exchanged [Q, Q]; below zero is a gain.

        What leaves a node takes it from tokens that have nothing else there, and gives another to those that have
        nothing there yet; for a token that chose both nothing changes. Whole numbers, added up exactly in float32.
        """
        alone = self.here * (self.hits[:, self.node] == 1) * self.cost[self.node]
        reached = (self.here.T @ (self.hits == 0).astype(np.float32)) * self.cost  # [Q, nodes]
        change = (reached - alone.sum(axis=0)[:, None])[:, self.node] + alone.T @ self.here
        return np.asarray(change + change.T)

    def _closed(self) -> np.ndarray:
        """Exchanges that are none, make an area too full, or put two copies side by side [Q, Q]."""
        weight, area, load = self.shelf.weight[self.place], self.area[self.card], self._loads()
        grown = load[area][:, None] - weight[:, None] + weight  # of the first's area, with the second's piece
        full = grown > np.maximum(self.most, load)[area][:, None]
        barred = self.shelf.barred(self.place[:, None], self.card[:, None], self.card)
        return np.asarray((self.node[:, None] == self.node) | full | full.T | barred | barred.T)

    def _loads(self) -> np.ndarray:
        found = np.zeros(len(self.most), np.int64)
        np.add.at(found, self.area, self.shelf.load)
        return found

    def _try(self, q: int, r: int) -> bool:
        """Exchanges two places if that still holds what was promised, after those that were exchanged before."""
        shelf, pair = self.shelf, [q, r]
        places = [divmod(n, shelf.room.slots) for n in pair]
        cards, load = self.card[pair], self._loads()
        pieces = np.array([shelf.place[place] for place in places])
        area, weight = self.area[cards], shelf.weight[pieces]
        grown = load[area] + weight[::-1] - weight
        if (grown > np.maximum(self.most, load)[area]).any() or shelf.barred(pieces, cards, cards[::-1]).any():
            return False
        nodes = self.node[pair]
        moved = self.here[:, q] - self.here[:, r]
        before = self.hits[:, nodes]
        after = before + np.stack([-moved, moved], axis=1)
        if ((after > 0).sum(axis=0) - (before > 0).sum(axis=0)) @ self.cost[nodes] >= 0:
            return False
        shelf.swap(*places)
        self.hits[:, nodes] = after
        self.here[:, pair] = self.here[:, pair[::-1]]
        return True
