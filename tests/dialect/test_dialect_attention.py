"""Attention against loops over batch, head and query in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from onnx_run import TOLERANCE, compute, error, normals

from porter.dialect import ATTENTION, CAPPED_ATTENTION


class Sizes(NamedTuple):
    batch: int
    heads: int
    groups: int
    sequence: int
    total: int
    key: int
    value: int


SIZES = [
    Sizes(1, 1, 1, 1, 1, 1, 1),
    Sizes(2, 4, 2, 3, 5, 8, 6),
    Sizes(1, 6, 1, 7, 7, 5, 5),  # one group
    Sizes(2, 3, 3, 4, 9, 4, 2),  # a group per head
    Sizes(3, 6, 2, 1, 11, 7, 3),  # decode
    Sizes(1, 5, 1, 13, 13, 33, 17),
]


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray, scale: float, cap: float | None = None
) -> np.ndarray:
    """Head h reads group h // (heads / groups); a query looks at the keys that its mask leaves."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    share = q.shape[1] // k.shape[1]
    result = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, h, s in np.ndindex(*q.shape[:3]):
        seen = np.flatnonzero(mask[b, 0, s])
        scores = k[b, h // share, seen] @ q[b, h, s] * scale
        scores = scores if cap is None else cap * np.tanh(scores / cap)
        weights = np.exp(scores - scores.max())
        result[b, h, s] = weights / weights.sum() @ v[b, h // share, seen]
    return result


def causal(n: Sizes, padding: int = 0) -> np.ndarray:
    """Query i stands at place total - sequence + i; the first places of the first row are padding."""
    places = np.arange(n.total - n.sequence, n.total)
    mask = np.arange(n.total) <= places[:, None]
    mask = np.broadcast_to(mask, (n.batch, 1, *mask.shape)).copy()
    mask[0, :, :, :padding] = False
    return mask


def computed(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray, scale: float, one: int = 0) -> np.ndarray:
    sizes = {"heads": q.shape[1], "groups": k.shape[1], "key_dim": q.shape[-1], "value_dim": v.shape[-1], "one": one}
    return compute(lambda graph, *inputs: ATTENTION(graph, *inputs, **sizes, scale=scale), q, k, v, mask)


def queries_keys_values(dtype: str, n: Sizes) -> list[np.ndarray]:
    past = (n.batch, n.groups, n.total)
    return normals(dtype, (n.batch, n.heads, n.sequence, n.key), (*past, n.key), (*past, n.value))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", SIZES, ids=lambda n: "-".join(map(str, n)))
def test_it_is_the_softmax_of_what_the_mask_leaves(dtype: str, sizes: Sizes) -> None:
    q, k, v = queries_keys_values(dtype, sizes)
    got = computed(q, k, v, causal(sizes), 0.3)
    assert got.dtype == dtype
    assert error(got, attention(q, k, v, causal(sizes), 0.3)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", SIZES, ids=lambda n: "-".join(map(str, n)))
def test_capped_scores_stay_below_the_cap(dtype: str, sizes: Sizes) -> None:
    q, k, v = queries_keys_values(dtype, sizes)
    rule = {"heads": sizes.heads, "groups": sizes.groups, "key_dim": sizes.key, "value_dim": sizes.value}
    rule |= {"scale": 2.0, "cap": 1.5}
    mask = causal(sizes)
    got = compute(lambda graph, *inputs: CAPPED_ATTENTION(graph, *inputs, **rule), q, k, v, mask)
    assert error(got, attention(q, k, v, mask, 2.0, 1.5)) < TOLERANCE[dtype]
    if sizes.total > sizes.sequence > 1:
        assert error(got, attention(q, k, v, mask, 2.0)) > 10 * TOLERANCE[dtype]


@pytest.mark.parametrize("sizes", [n for n in SIZES if n.sequence == 1], ids=lambda n: "-".join(map(str, n)))
def test_a_single_query_needs_less_and_gets_the_same(sizes: Sizes) -> None:
    q, k, v = queries_keys_values("float32", sizes)
    mask = causal(sizes, padding=sizes.total // 2)
    assert np.array_equal(computed(q, k, v, mask, 0.3, one=1), computed(q, k, v, mask, 0.3))


def test_keys_behind_the_mask_do_not_matter() -> None:
    n = Sizes(2, 4, 2, 3, 5, 8, 6)
    q, k, v = queries_keys_values("float32", n)
    before = computed(q, k, v, causal(n, padding=2), 0.3)
    k[0, :, :2], v[0, :, :2] = 1e3, -1e3
    assert np.array_equal(computed(q, k, v, causal(n, padding=2), 0.3), before)


def test_a_query_that_sees_nothing_stays_finite_and_disturbs_no_other() -> None:
    """Left padding masks all that the first queries could see."""
    n = Sizes(2, 4, 2, 5, 5, 8, 6)
    q, k, v = queries_keys_values("float32", n)
    mask = causal(n, padding=2)
    assert not mask[0, 0, :2].any()
    got = computed(q, k, v, mask, 0.3)
    assert np.isfinite(got).all()
    mask[0, 0, :2] = True  # anything: these rows are left out below
    assert error(got[0, :, 2:], attention(q, k, v, mask, 0.3)[0, :, 2:]) < 1e-6


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_large_scores_do_not_overflow(dtype: str) -> None:
    n = Sizes(1, 2, 1, 2, 3, 4, 4)
    q, k, v = queries_keys_values(dtype, n)
    q *= 100
    assert np.isfinite(computed(q, k * 50, v, causal(n), 1.0)).all()


def test_float16_scores_are_scaled_in_float32() -> None:
    """Scaled in float16, 102.4 and 102.3 would come out 0.06 apart, not 0.1."""
    q, k, v = np.ones((1, 1, 1, 1)), np.array([1024, 1023]).reshape(1, 1, 2, 1), np.array([1, 0]).reshape(1, 1, 2, 1)
    got = computed(*(x.astype(np.float16) for x in (q, k, v)), np.ones((1, 1, 1, 2), bool), 0.1)
    assert got.item() == pytest.approx(1 / (1 + np.exp(-0.1)), rel=1e-3)
