"""What logits say: the distribution over the next token, and how far one is from another."""

from __future__ import annotations

import numpy as np


def measure(logits: np.ndarray, exact: np.ndarray, next_ids: np.ndarray) -> dict[str, np.ndarray]:
    """What logits [N, S, V] are off from the exact ones, by token [N, S].

    `divergence` is Kullback and Leibler's of the exact distribution from this one, in nats; `change` that of the next
    token's probability; `surprise` by how much less the logarithm of that is, and `loss` what is left of it, without
    its sign; `choice` 1 where another token is first, else `agreement`.
    """
    p, q = log_softmax(exact), log_softmax(logits.astype(np.float64))
    likely, now = (np.take_along_axis(side, next_ids[..., None], axis=-1)[..., 0] for side in (p, q))
    other = p.argmax(axis=-1) != q.argmax(axis=-1)
    return {
        "divergence": divergence(logits, exact),
        "change": np.exp(now) - np.exp(likely),
        "surprise": likely - now,
        "loss": -now,
        "choice": other.astype(np.float64),
        "agreement": (~other).astype(np.float64),
    }


def divergence(logits: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Kullback and Leibler's of the exact distribution from this one, in nats, over the last axis."""
    p, q = log_softmax(exact), log_softmax(logits.astype(np.float64))
    return np.asarray(np.maximum(np.sum(np.exp(p) * (p - q), axis=-1), 0.0))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The logarithm of each token's probability, over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
