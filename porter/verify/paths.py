"""Where given texts are led to see whether a port drifts: from the beginning on, and across what lies far away.

A boundary of the rotation is reached by a leap: positions are skipped, so that a rotation far away costs no more than
one nearby.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from porter.manifest import Port
from porter.model import Model
from porter.verify.prompts import Prompts
from porter.verify.scenarios import Call
from porter.verify.stories import reach

OPENING = 8  # tokens in one call, before the decode
STEPS = 64  # tokens of the decode
ACROSS = 16  # tokens around a boundary, half of them before it
SHORTEST, STRETCH = 4, 1.25  # so many positions are taken together at least, and up to so many times the first of them
PROMPTS = 2  # for one text
FEWEST, MOST = 8, 48  # texts, however many prompts there are: each is as long as several of these


@dataclass(frozen=True)
class Path:
    """The positions of a text's tokens [S], of which the first `opening` come in one call and the others one by one.

    `cuts` are the tokens at which the stretches of the decode begin, and its end.
    """

    name: str
    positions: np.ndarray
    opening: int
    cuts: tuple[int, ...]

    def calls(self, ids: np.ndarray) -> tuple[Call, ...]:
        """Of texts [B, S]."""
        at, one = np.broadcast_to(self.positions, ids.shape), np.ones(ids.shape, np.int64)
        begins = [0, *range(self.opening, len(self.positions) + 1)]
        return tuple(Call(ids[:, a:b], at[:, a:b], one[:, a:b]) for a, b in pairwise(begins))

    def stretches(self, *, opened: bool = False) -> Iterator[tuple[int, slice]]:
        """Tokens that are taken together, with the position of the one in their middle; the opening where it counts."""
        for a, b in pairwise((0, *self.cuts) if opened else self.cuts):
            yield int(self.positions[(a + b) // 2]), slice(a, b)


def paths_of(port: Port, model: Model, steps: int) -> list[Path]:
    """A decode of so many tokens, STEPS at least, as far as model and cache reach; then the boundaries of the rotation
    that it does not come to.
    """
    rotation, limit = model.network.model.rotary_emb, reach(port, model)
    opening = OPENING if limit is None else max(min(OPENING, limit // 4), 1)
    length = opening + max(STEPS, steps)
    length = length if limit is None else min(length, limit)
    found = [Path("drift", np.arange(length), opening, _cuts(opening, length))]
    for boundary in sorted({b for b in rotation.rope.boundaries() if b <= model.config.max_position_embeddings}):
        end = boundary + ACROSS // 2
        end = end if limit is None else min(end, limit)
        if boundary <= end and end > length:
            far = np.arange(max(end - ACROSS, opening), end)
            cuts = (opening, opening + len(far) // 2, opening + len(far))
            found.append(Path(f"RoPE at {boundary}", np.concatenate([np.arange(opening), far]), opening, cuts))
    return found


def _cuts(first: int, end: int) -> tuple[int, ...]:
    """Stretches that grow with the position."""
    cuts = [first]
    while (following := max(cuts[-1] + SHORTEST, round(cuts[-1] * STRETCH))) <= end - SHORTEST:
        cuts.append(following)
    return (*cuts, end)


def texts_of(prompts: Prompts, length: int) -> np.ndarray:
    """The prompts laid end to end and cut anew: [texts, length]. The seams lie elsewhere in each text."""
    count, of_each = min(max(len(prompts.input_ids) // PROMPTS, FEWEST), MOST), prompts.input_ids.shape[1]
    laid, texts = prompts.input_ids.reshape(-1), np.arange(count)
    begins = texts * (len(laid) // count) + texts * of_each // count
    return np.asarray(laid[(begins[:, None] + np.arange(length)) % len(laid)])
