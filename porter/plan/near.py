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
            if not _pass(shelf, chosen, area, most * np.bincount(area)):
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


def _pass(shelf: Shelf, chosen: np.ndarray, area: np.ndarray, most: np.ndarray) -> bool:
    """Looks at every exchange and makes those that hold good, the most promising first; whether there was any. Of the
    area that each card is in [cards], no more than `most` [areas] is asked.
    """
    room = shelf.room
    place = shelf.place.reshape(-1)
    card = np.repeat(np.arange(room.cards), room.slots)
    node = room.node_of[card]
    here = chosen[:, place]
    hits = here @ np.eye(room.nodes, dtype=np.float32)[node]
    gain = _gains(here, hits, node)
    gain[_closed(shelf, place, card, area, most)] = 0
    first, second = np.triu_indices(len(place), 1)
    value = gain[first, second]
    best = np.argsort(value, kind="stable")[:BEST]
    made = False
    for n in best[value[best] < 0]:
        q, r = int(first[n]), int(second[n])
        made |= _try(shelf, here, hits, (q, r), (int(node[q]), int(node[r])), area, most)
    return made


def _gains(here: np.ndarray, hits: np.ndarray, node: np.ndarray) -> np.ndarray:
    """By how many nodes tokens go farther when two places are exchanged [Q, Q]; below zero is a gain.

    What leaves a node takes it from tokens that have nothing else there, and gives another to those that have nothing
    there yet; a token that chose both stays as it was. Whole numbers, which float32 adds up exactly.
    """
    alone = here * (hits[:, node] == 1)
    moved = here.T @ (hits == 0).astype(np.float32) - alone.sum(axis=0)[:, None]  # [Q, nodes]
    both = alone.T @ here
    change = moved[:, node] + both
    return np.asarray(change + change.T)


def _closed(shelf: Shelf, place: np.ndarray, card: np.ndarray, area: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Exchanges that are none, make an area too full, or put two copies side by side [Q, Q]."""
    node, weight = shelf.room.node_of[card], shelf.weight[place]
    load = _loads(shelf, area)
    grown = load[area[card]][:, None] - weight[:, None] + weight  # of the first's area, with the second's piece
    full = grown > np.maximum(most, load)[area[card]][:, None]
    barred = shelf.barred(place[:, None], card[:, None], card)
    return np.asarray((node[:, None] == node) | full | full.T | barred | barred.T)


def _loads(shelf: Shelf, area: np.ndarray) -> np.ndarray:
    found = np.zeros(area[-1] + 1, np.int64)
    np.add.at(found, area, shelf.load)
    return found


def _try(
    shelf: Shelf,
    here: np.ndarray,
    hits: np.ndarray,
    pair: tuple[int, int],
    nodes: tuple[int, int],
    area: np.ndarray,
    most: np.ndarray,
) -> bool:
    """Exchanges two places if that still holds what was promised, after those that were exchanged before."""
    places = [divmod(q, shelf.room.slots) for q in pair]
    cards = np.array([place[0] for place in places])
    pieces = np.array([shelf.place[place] for place in places])
    weight, load = shelf.weight[pieces], _loads(shelf, area)
    grown = load[area[cards]] + weight[::-1] - weight
    if (grown > np.maximum(most, load)[area[cards]]).any() or shelf.barred(pieces, cards, cards[::-1]).any():
        return False
    leaves = here[:, pair[0]] - here[:, pair[1]]
    new = hits[:, nodes[0]] - leaves, hits[:, nodes[1]] + leaves
    if sum(int((now > 0).sum()) - int((hits[:, n] > 0).sum()) for n, now in zip(nodes, new, strict=True)) >= 0:
        return False
    shelf.swap(*places)
    hits[:, nodes[0]], hits[:, nodes[1]] = new
    here[:, list(pair)] = here[:, list(pair[::-1])]
    return True
