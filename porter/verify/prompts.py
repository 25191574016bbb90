"""What port and original are asked at the levels that measure: the original's own words.

Random tokens say little of a trained model, and a checkpoint brings no text. So each prompt begins with a few random
tokens and the original in float64 goes on with it, drawing from its own distribution. A token is then as likely as the
original takes it to be, and what a port adds to the perplexity is its divergence from the original.
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
    next_ids: np.ndarray  # [N, S]: the token that the original wrote behind each
    opening: int  # the first tokens of each, which are random
    logits: np.ndarray  # [N, S, V]: the original's own in float64, all tokens in one call
    routes: dict[int, np.ndarray]  # layer → [N, S, K]: the experts that it chose in that call

    def batches(self) -> Iterator[slice]:
        """The prompts in groups that are run at once."""
        return (slice(start, start + BATCH) for start in range(0, len(self.input_ids), BATCH))

    @property
    def written(self) -> slice:
        """The places whose next token the original wrote."""
        return slice(self.opening - 1, None)


def write_prompts(original: Original, positions: int | None, count: int) -> Prompts:
    """Lets the original write prompts of LENGTH tokens, or of all its `positions` where these are fewer.

    Each count has prompts of its own.
    """
    generator = np.random.default_rng((SEED, count))
    length = min(LENGTH, positions or LENGTH)
    opening = max(length // OPENING, 1)
    ids = generator.integers(0, original.vocabulary, (count, opening))
    past: Past | None = None
    new = ids
    while ids.shape[1] <= length:
        trace, past = original.run(new, past=past)
        new = _draw(trace.logits[:, -1], generator)
        ids = np.concatenate([ids, new], axis=1)
    traces = [original.run(ids[start : start + BATCH, :-1])[0] for start in range(0, count, BATCH)]
    routes = {n: np.concatenate([trace.routes[n] for trace in traces]) for n in traces[0].routes}
    shaped = {n: chosen.reshape(count, length, -1) for n, chosen in routes.items()}
    return Prompts(ids[:, :-1], ids[:, 1:], opening, np.concatenate([trace.logits for trace in traces]), shaped)


def _draw(logits: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One token [N, 1] for each row of logits [N, V], as likely as the row says."""
    heaps = np.exp(logits - logits.max(axis=-1, keepdims=True)).cumsum(axis=-1)
    aims = generator.random((len(logits), 1)) * heaps[:, -1:]
    return np.asarray((heaps <= aims).sum(axis=-1, keepdims=True).clip(max=logits.shape[-1] - 1))
