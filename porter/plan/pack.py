"""Placements that are made without a search: what engines do, and where a search may begin."""

from __future__ import annotations

import numpy as np

from porter.plan.room import Pieces, Room


def in_order(pieces: Pieces, room: Room) -> np.ndarray:
    """The cards of the pieces [P]: neighbours side by side, copies behind all firsts."""
    order = np.argsort(_number(pieces), kind="stable")
    found = np.empty(len(order), np.int64)
    found[order] = np.arange(len(order)) * room.cards // len(order)
    return found


def round_robin(pieces: Pieces, room: Room) -> np.ndarray:
    """Dealt out to one card after the other, copies behind all firsts."""
    order = np.argsort(_number(pieces), kind="stable")
    found = np.empty(len(order), np.int64)
    found[order] = np.arange(len(order)) % room.cards
    return found


def greedy(pieces: Pieces, room: Room) -> np.ndarray:
    """The heaviest first, each to the emptiest card that has a place: bin-packing as it is mostly done."""
    order = np.argsort(-pieces.weight, kind="stable")
    return _fill(pieces, room, order, apart=False)


def apart(pieces: Pieces, room: Room) -> np.ndarray:
    """The same with an expert's copies on different cards, and on different nodes where there are as many."""
    single = pieces.copies[pieces.expert] == 1
    order = np.lexsort((-pieces.weight, -pieces.copies[pieces.expert] * ~single))
    return _fill(pieces, room, order, apart=True)


def _number(pieces: Pieces) -> np.ndarray:
    """Of each piece, which copy of its expert it is."""
    first = np.searchsorted(pieces.expert, pieces.expert)
    return np.arange(len(pieces.expert)) - first


def _fill(pieces: Pieces, room: Room, order: np.ndarray, *, apart: bool) -> np.ndarray:
    """To the emptiest card, piece by piece. Those that have to lie apart come first and fill cards alike, so that
    there are always enough to choose from.
    """
    card = np.full(len(order), -1)
    load, free = np.zeros(room.cards, np.int64), np.full(room.cards, room.slots)
    for piece in order:
        keys: list[np.ndarray] = [load]
        if apart and pieces.copies[pieces.expert[piece]] > 1:
            there = card[pieces.expert == pieces.expert[piece]]
            there = there[there >= 0]
            on_card = np.isin(np.arange(room.cards), there)
            on_node = np.isin(room.node_of, room.node_of[there])
            keys = [load, on_node, -free, on_card]
        place = np.lexsort((*keys, free == 0))[0]
        card[piece] = place
        load[place] += pieces.weight[piece]
        free[place] -= 1
    return card
