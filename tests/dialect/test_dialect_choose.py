"""Choose against a sort of each query's keys, and what becomes of equal scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_run import compute, normals

from porter.dialect import CHOOSE


def best(scores: np.ndarray, mask: np.ndarray, top_k: int) -> np.ndarray:
    """Query by query: the first of the best, of those that are shown."""
    result = np.zeros_like(mask)
    for place in np.ndindex(mask.shape[:-1]):
        shown = np.flatnonzero(mask[place])
        order = shown[np.argsort(-scores[place][shown], kind="stable")]
        result[place][order[:top_k]] = True
    return result


def chosen(scores: np.ndarray, mask: np.ndarray, top_k: int, total: int | None) -> Any:
    return compute(lambda graph, s, m: CHOOSE(graph, s, m, top_k=top_k, total=total), scores, mask)


@pytest.mark.parametrize("total", [None, 9], ids=["open", "fixed"])
@pytest.mark.parametrize("top_k", [1, 4, 9, 500])
def test_the_best_of_what_is_shown(top_k: int, total: int | None) -> None:
    (scores,) = normals("float32", (2, 1, 6, 9))
    mask = np.tril(np.ones((2, 1, 6, 9), bool), 3)
    assert np.array_equal(chosen(scores, mask, top_k, total), best(scores, mask, top_k))


@pytest.mark.parametrize("top_k", [1, 3, 5, 8])
def test_of_equals_the_first(top_k: int) -> None:
    """Scores of zero come often: each head's is cut off there."""
    scores = np.random.default_rng(1).integers(-1, 2, (3, 1, 5, 8)).astype(np.float32)
    mask = np.random.default_rng(2).integers(0, 4, scores.shape) > 0
    got = chosen(scores, mask, top_k, None)
    assert np.array_equal(got, best(scores, mask, top_k))
    assert (got.sum(-1) == np.minimum(mask.sum(-1), top_k)).all()


def test_a_query_that_is_shown_nothing_gets_nothing() -> None:
    (scores,) = normals("float32", (1, 1, 2, 5))
    mask = np.array([[[[False] * 5, [True] * 5]]])
    assert chosen(scores, mask, 2, None).sum(-1).ravel().tolist() == [0, 2]
