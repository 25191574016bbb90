"""SinkAttention against loops over batch, head and query in float64."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_run import TOLERANCE, compute, error, normals

from porter.dialect import SINK_ATTENTION

SIZES = [(1, 1, 1, 1, 1), (2, 4, 2, 3, 5), (1, 6, 1, 7, 7), (2, 3, 3, 4, 9), (3, 6, 2, 1, 11)]


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray, sinks: np.ndarray) -> np.ndarray:
    """Each head's keys share their softmax with a score that brings no value."""
    q, k, v, sinks = (x.astype(np.float64) for x in (q, k, v, sinks))
    share, result = q.shape[1] // k.shape[1], np.zeros((*q.shape[:3], v.shape[-1]))
    for b, h, s in np.ndindex(*q.shape[:3]):
        seen = np.flatnonzero(mask[b, 0, s])
        powers = np.exp(k[b, h // share, seen] @ q[b, h, s] * 0.5)
        result[b, h, s] = powers / (powers.sum() + np.exp(sinks[h])) @ v[b, h // share, seen]
    return result


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_what_a_sink_takes_is_gone(sizes: tuple[int, ...], dtype: str) -> None:
    batch, heads, groups, sequence, total = sizes
    q, k, v, sinks = normals(
        dtype, (batch, heads, sequence, 6), (batch, groups, total, 6), (batch, groups, total, 4), (heads,)
    )
    mask = np.broadcast_to(
        np.tril(np.ones((sequence, total), bool), total - sequence), (batch, 1, sequence, total)
    ).copy()
    rule = {"heads": heads, "groups": groups, "key_dim": 6, "value_dim": 4, "scale": 0.5}
    got = compute(lambda graph, *x: SINK_ATTENTION(graph, *x, **rule, one=int(sequence == 1)), q, k, v, mask, 3 * sinks)
    assert got.dtype == dtype
    assert error(got, attention(q, k, v, mask, 3 * sinks)) < TOLERANCE[dtype]


def test_a_query_that_sees_nothing_gives_nothing() -> None:
    q, k, v, sinks = normals("float32", (1, 2, 1, 3), (1, 1, 4, 3), (1, 1, 4, 3), (2,))
    rule = {"heads": 2, "groups": 1, "key_dim": 3, "value_dim": 3, "scale": 1.0}
    got = compute(lambda graph, *x: SINK_ATTENTION(graph, *x, **rule), q, k, v, np.zeros((1, 1, 1, 4), bool), sinks)
    assert (got == 0).all()
