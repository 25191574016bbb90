"""RotaryEmbedding against a multiplication of complex numbers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_run import TOLERANCE, compute, error, normals

from porter.dialect import ROTARY_EMBEDDING


def rotated(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, interleaved: bool) -> np.ndarray:
    """Feature pairs as complex numbers, turned by cos + i sin; each pair stays where it was."""
    half = x.shape[-1] // 2
    firsts = np.arange(half) * 2 if interleaved else np.arange(half)
    seconds = firsts + (1 if interleaved else half)
    x = x.astype(np.float64)
    turned = (x[..., firsts] + 1j * x[..., seconds]) * (cos.astype(np.float64) + 1j * sin)
    result = np.empty_like(x)
    result[..., firsts], result[..., seconds] = turned.real, turned.imag
    return result


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 5, 6), (2, 1, 4, 64), (3, 5, 1, 10)], ids=str)
def test_pairs_of_features_are_turned(dtype: str, interleaved: int, shape: tuple[int, ...]) -> None:
    batch, _, sequence, width = shape
    (x,) = normals(dtype, shape)
    angles = np.random.default_rng(1).uniform(-9, 9, (batch, 1, sequence, width // 2))
    cos, sin = np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
    got = compute(lambda graph, *in_: ROTARY_EMBEDDING(graph, *in_, interleaved=interleaved, dim=width), x, cos, sin)
    assert got.dtype == dtype
    assert error(got, rotated(x, cos, sin, bool(interleaved))) < TOLERANCE[dtype]


@pytest.mark.parametrize(("interleaved", "expected"), [(0, [-3, -4, 1, 2]), (1, [-2, 1, -4, 3])])
def test_a_quarter_turn_shows_which_features_pair(interleaved: int, expected: list[int]) -> None:
    x = np.array([1, 2, 3, 4], np.float32).reshape(1, 1, 1, 4)
    zero, one = np.zeros((1, 1, 1, 2), np.float32), np.ones((1, 1, 1, 2), np.float32)
    got = compute(lambda graph, *in_: ROTARY_EMBEDDING(graph, *in_, interleaved=interleaved, dim=4), x, zero, one)
    assert got.ravel().tolist() == expected
