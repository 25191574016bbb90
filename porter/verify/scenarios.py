"""The ways in which a port is used, each a short story of calls: what verify walks through with port and original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

SEED = 20241226
FAINT = 2.0**-6  # embeddings this much smaller are near the epsilon of the norms, and show one that is wrong
SHORTEST = 4  # a prompt that every scenario can be made of
PROMPT = 24  # tokens of the prompt; each story is a few dozen tokens, so that every layer's output can be held


@dataclass(frozen=True)
class Call:
    """The new tokens of one call: ids, positions and mask [B, S]; a place with mask 0 is padding.

    `gap` empty places, which the mask hides, are put into the cache before them.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    mask: np.ndarray
    gap: int = 0


@dataclass(frozen=True)
class Scenario:
    """Calls that continue one another through the cache; of a port that has prompts of several sizes, with one `size`:
    sequence and context.
    """

    name: str
    calls: tuple[Call, ...]
    embedding_scale: float = 1.0
    size: tuple[int, int] | None = None


def scenarios(
    vocabulary: int,
    boundaries: Sequence[int],
    limit: int | None,
    window: int | None,
    steps: int,
    *,
    beyond: bool = False,
) -> list[Scenario]:
    """Prefill, also with faint embeddings; decode, chunks, a left-padded batch, positions across RoPE's boundaries.

    `boundaries` are the positions where the rotation changes its rule or ends, and with `beyond` positions past them
    are meant; no position reaches `limit`. A sliding `window` is left behind, whatever its size.
    """
    generator = np.random.default_rng(SEED)
    length = PROMPT if limit is None else min(PROMPT, limit - steps)
    ids = generator.integers(0, vocabulary, (1, length + steps))
    found = [
        Scenario("prefill", (_call(ids[:, :length]),)),
        Scenario("faint", (_call(ids[:, :length]),), FAINT),
        Scenario("decode", _chunks(ids, [length // 2, *[1] * steps])),
        Scenario("chunked", _chunks(ids, _sizes(length))),
        Scenario("padded", _padded(generator.integers(0, vocabulary, (3, length)), [length, length // 2, 2])),
    ]
    if window is not None:
        found.append(Scenario(f"window of {window}", _apart(ids[:, :length], window)))
    for boundary in boundaries:
        found.append(Scenario(f"RoPE at {boundary}", _across(ids[:, :length], boundary, beyond)))
    return found


def placed(story: Scenario) -> Scenario:
    """The same story for a cache in which a token's place is its position: where one is skipped, the other is, too."""
    calls: list[Call] = []
    shift = 0
    for call in story.calls:
        shift += call.gap
        positions = call.position_ids + shift
        skipped = int((positions[:, 0] - calls[-1].position_ids[:, -1]).min()) - 1 if calls else 0
        calls.append(replace(call, position_ids=positions, gap=max(skipped, 0)))
    return replace(story, calls=tuple(calls))


def _sizes(length: int) -> tuple[int, ...]:
    """Four chunks of different size, one of them a single token."""
    first, third = length // 4, length // 3
    return first, 1, third, length - first - 1 - third


def _call(ids: np.ndarray, start: int = 0) -> Call:
    positions = np.broadcast_to(np.arange(start, start + ids.shape[1]), ids.shape)
    return Call(ids, positions, np.ones(ids.shape, np.int64))


def _chunks(ids: np.ndarray, sizes: Sequence[int]) -> tuple[Call, ...]:
    starts = np.cumsum([0, *sizes])
    return tuple(_call(ids[:, a:b], int(a)) for a, b in pairwise(starts))


def _padded(ids: np.ndarray, lengths: Sequence[int]) -> tuple[Call, ...]:
    """Rows of different length, padded on the left; then one more token for each."""
    size = ids.shape[1]
    mask = np.array([[0] * (size - n) + [1] * n for n in lengths], np.int64)
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    step = Call(ids[:, :1], positions[:, -1:] + 1, np.ones((len(ids), 1), np.int64))
    return Call(ids, positions, mask), step


def _apart(ids: np.ndarray, window: int) -> tuple[Call, ...]:
    """Two halves so far apart in the cache that each later token loses sight of one more early one."""
    half = ids.shape[1] // 2
    first, second = _chunks(ids, [half, ids.shape[1] - half])
    return first, replace(second, gap=max(window - half, 0))


def _across(ids: np.ndarray, boundary: int, beyond: bool) -> tuple[Call, ...]:
    """The first half from position 0, the second half around the boundary: long distances, where a frequency that is
    slightly off shows. A shift of all positions would not: RoPE is relative.
    """
    length = ids.shape[1]
    half = length // 2
    last = boundary + half // 2 if beyond else boundary - 1
    far = np.arange(max(last - (length - half) + 1, half), max(last + 1, length))[: length - half]
    first, second = _call(ids[:, :half]), ids[:, half:]
    return first, Call(second, far[None], np.ones_like(second))
