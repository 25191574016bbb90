"""What port and original are asked at the levels that measure: a text, or without a tokenizer the original's own words.

Random tokens say little of a trained model. So where there is no text, each prompt begins with a few random tokens and
the original in float64 goes on with it, drawing from its own distribution. A token is then as likely as the original
takes it to be, and what a port adds to the perplexity is its divergence from the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from porter.verify.original import Original
from porter.verify.part import Past

SEED = 20250120
COUNTS = (32, 96)  # prompts: enough for an interval over them; where it decides nothing, more of them
LENGTH = 32  # tokens of each
OPENING = 8  # one in so many is random
BATCH = 8  # prompts that are run at once


@dataclass(frozen=True)
class Prompts:
    """N prompts of S tokens each."""

    input_ids: np.ndarray  # [N, S]
    next_ids: np.ndarray  # [N, S]: the token that stands behind each
    opening: int  # the first tokens of each, which nobody could foresee
    logits: np.ndarray  # [N, S, V]: the original's own in float64, all tokens in one call
    routes: dict[int, np.ndarray]  # layer → [N, S, K]: the experts that it chose in that call

    def batches(self, original: Original) -> Iterator[slice]:
        """The prompts in groups that are run at once."""
        return batches(len(self.input_ids), original)

    @property
    def written(self) -> slice:
        """The places whose next token was written, not drawn at random."""
        return slice(self.opening - 1, None)


def write_prompts(original: Original, positions: int | None, count: int) -> Prompts:
    """Lets the original write prompts of LENGTH tokens, or of all its `positions` where these are fewer.

    Each count has prompts of its own.
    """
    generator = np.random.default_rng((SEED, count))
    length = length_within(positions)
    opening = max(length // OPENING, 1)
    ids = generator.integers(0, original.vocabulary, (count, opening))
    past: Past | None = None
    new = ids
    while ids.shape[1] <= length:
        trace, past = original.run(new, past=past)
        new = _draw(trace.logits[:, -1], generator)
        ids = np.concatenate([ids, new], axis=1)
    return read_prompts(original, ids, opening)


def read_prompts(original: Original, ids: np.ndarray, opening: int = 1) -> Prompts:
    """Lets the original read what is written: ids [N, S + 1], text behind the `opening` tokens of each."""
    read, following = ids[:, :-1], ids[:, 1:]
    traces = [original.run(read[batch])[0] for batch in batches(len(ids), original)]
    routes = {n: np.concatenate([trace.routes[n] for trace in traces]) for n in traces[0].routes}
    shaped = {n: chosen.reshape(*read.shape, -1) for n, chosen in routes.items()}
    return Prompts(read, following, opening, np.concatenate([trace.logits for trace in traces]), shaped)


def batches(count: int, original: Original) -> Iterator[slice]:
    """So many prompts in groups that are run at once: all of them where each group would read the model anew."""
    size = BATCH if original.stages.resident else count
    return (slice(start, start + size) for start in range(0, count, size))


def length_within(positions: int | None) -> int:
    """How many tokens a prompt has where there are so many positions."""
    return min(LENGTH, positions or LENGTH)


def _draw(logits: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One token [N, 1] for each row of logits [N, V], as likely as the row says."""
    heaps = np.exp(logits - logits.max(axis=-1, keepdims=True)).cumsum(axis=-1)
    aims = generator.random((len(logits), 1)) * heaps[:, -1:]
    return np.asarray((heaps <= aims).sum(axis=-1, keepdims=True).clip(max=logits.shape[-1] - 1))
