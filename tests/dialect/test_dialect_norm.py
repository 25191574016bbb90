"""RMSNorm against its definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_run import TOLERANCE, compute, error, normals

from porter.dialect import RMS_NORM

SHAPES = [(1, 1), (3, 7), (2, 3, 4, 6), (5, 130)]


def rms_norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("epsilon", [1e-6, 1e-2])
def test_it_divides_by_the_root_mean_square(dtype: str, shape: tuple[int, ...], epsilon: float) -> None:
    x, weight = normals(dtype, shape, shape[-1:])
    got = compute(lambda graph, *inputs: RMS_NORM(graph, *inputs, epsilon=epsilon), x, weight)
    assert got.dtype == dtype
    assert error(got, rms_norm(x, weight, epsilon)) < TOLERANCE[dtype]


def test_statistics_in_float16_neither_overflow_nor_vanish() -> None:
    """300² is over float16's range, and 1e-4² below it."""
    x = np.array([[300.0, -300.0, 150.0], [1e-4, -2e-4, 1e-4]], np.float16)
    got = compute(lambda graph, *inputs: RMS_NORM(graph, *inputs, epsilon=1e-9), x, np.ones(3, np.float16))
    assert error(got, rms_norm(x, np.ones(3), 1e-9)) < TOLERANCE["float16"]


def test_a_row_of_zeros_stays_zero() -> None:
    x = np.zeros((2, 4), np.float32)
    got = compute(lambda graph, *inputs: RMS_NORM(graph, *inputs, epsilon=1e-6), x, np.ones(4, np.float32))
    assert not got.any()
