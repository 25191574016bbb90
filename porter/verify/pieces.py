"""A call of a story as a port's graphs take it: the feeds, and where in them each token and each cache place stands.

The original computes a call as one; a port of fixed sizes in pieces, with a cache in which a token stands at its
position. What the original has is put into the layout of a piece here, so that both can be compared place by place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from porter.manifest import Port
from porter.verify.runs import pieces, seen_places
from porter.verify.scenarios import Scenario
from porter.verify.session import Arrays


@dataclass(frozen=True)
class Piece:
    """One call of one graph, with b rows of s tokens of a story's call and P places of the cache behind it."""

    graph: Path
    rows: np.ndarray  # [b]: of the story's batch
    columns: np.ndarray  # [b, s]: of the story's call
    real: np.ndarray  # bool [b, s]: no padding
    places: np.ndarray  # [b, P]: the place of the sequence that stands there, -1 for none
    kept: np.ndarray  # bool [b, P]: what stands there is a token, no padding
    before: np.ndarray  # [b, P or fewer]: what stood there before this piece
    feed: Arrays  # ids, positions and mask

    def tokens(self, values: np.ndarray) -> np.ndarray:
        """[B, S, …] → [b, s, …]."""
        return values[self.rows[:, None], self.columns]

    def cached(self, values: np.ndarray, places: np.ndarray) -> np.ndarray:
        """A cache in the order of the sequence [B, G, T, W] → [b, G, P, W], zeros where nothing stands."""
        picked = np.take_along_axis(values[self.rows], np.maximum(places, 0)[:, None, :, None], axis=2)
        return np.where((places >= 0)[:, None, :, None], picked, 0)

    def visible(self, mask: np.ndarray) -> np.ndarray:
        """Who may look at whom [B or 1, 1, S, T] → [b, 1, s, P]."""
        whole = np.broadcast_to(mask[:, 0], (max(int(self.rows.max()) + 1, len(mask)), *mask.shape[2:]))
        queries = self.tokens(whole)  # [b, s, T]
        picked = np.take_along_axis(queries, np.maximum(self.places, 0)[:, None, :], axis=2)
        return np.where((self.places >= 0)[:, None, :], picked, False)[:, None]


def pieces_of(port: Port, story: Scenario, number: int, masks: Sequence[np.ndarray]) -> Iterator[Piece]:
    """A call of a story; `masks` [B, places] are over all places so far."""
    if port.context is None:
        yield _growing(port, story, number, masks[number])
    else:
        yield from _fixed(port, story, number)


def _growing(port: Port, story: Scenario, number: int, mask: np.ndarray) -> Piece:
    call, hidden = story.calls[number], int(port.manifest["minimum_past"])
    rows, (batch, new) = np.arange(len(mask)), call.input_ids.shape
    places = np.broadcast_to(np.arange(-hidden, mask.shape[1]), (batch, hidden + mask.shape[1]))
    places = np.maximum(places, -1)
    seen = np.pad(mask, ((0, 0), (hidden, 0)))
    feed = {"input_ids": call.input_ids, "position_ids": call.position_ids, "attention_mask": seen}
    columns, real = np.broadcast_to(np.arange(new), (batch, new)), call.mask.astype(bool)
    return Piece(port.graphs[0], rows, columns, real, places, seen.astype(bool), places[:, :-new], feed)


def _fixed(port: Port, story: Scenario, number: int) -> Iterator[Piece]:
    sequence, context = story.size or (None, port.context or 0)
    fitting = [size for size in port.fixed_sizes() if size.context == context]
    taken = [size for size in fitting if size.sequence == 1 or sequence in (None, size.sequence)]
    graphs = [(size, port.folder / size.file) for size in sorted(taken, key=lambda size: size.sequence)]
    before, call = _placed(story, number), story.calls[number]
    real, seen, batch = call.mask.astype(bool), seen_places(before, context), graphs[0][0].batch
    held = np.full((len(real), context), -1)  # of each place of the cache the place of the sequence that stands there
    for row, positions in enumerate(before):
        held[row, positions[positions >= 0]] = np.flatnonzero(positions >= 0)
    for first in range(0, len(real), batch):
        group = np.minimum(np.arange(first, first + batch), len(real) - 1)
        for graph, picked in pieces(graphs, real, group):
            rows, old = group[:, None], held[group]
            positions = call.position_ids[rows, picked]
            seen[rows, positions] = 1
            held[rows, positions] = before.shape[1] + picked
            ids = call.input_ids[rows, picked]
            feed = {"input_ids": ids, "position_ids": positions, "attention_mask": seen[group]}
            new = held[group]
            yield Piece(graph, group, picked, np.ones(picked.shape, bool), new, new >= 0, old, feed)


def _placed(story: Scenario, number: int) -> np.ndarray:
    """The position of every place of the sequence [B, places] before a call, its gap included; -1 for padding."""
    rows = len(story.calls[0].input_ids)
    places = np.zeros((rows, 0), np.int64)
    for call in story.calls[:number]:
        gap = np.full((rows, call.gap), -1)
        places = np.concatenate([places, gap, np.where(call.mask.astype(bool), call.position_ids, -1)], axis=1)
    return np.concatenate([places, np.full((rows, story.calls[number].gap), -1)], axis=1)
