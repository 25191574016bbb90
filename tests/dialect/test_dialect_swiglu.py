"""SwiGLU against its definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_run import TOLERANCE, compute, error, normals

from porter.dialect import SWIGLU


def swiglu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    gate = gate.astype(np.float64)
    return gate / (1 + np.exp(-gate)) * up


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 5, 3)], ids=str)
def test_it_is_silu_of_the_gate_times_the_other(dtype: str, shape: tuple[int, ...]) -> None:
    gate, up = normals(dtype, shape, shape)
    got = compute(SWIGLU, gate, up)
    assert got.dtype == dtype
    assert error(got, swiglu(gate, up)) < TOLERANCE[dtype]


def test_large_gates_stay_finite() -> None:
    got = compute(SWIGLU, np.array([-1e30, -100.0, 100.0], np.float32), np.ones(3, np.float32))
    assert got.tolist() == pytest.approx([0.0, 0.0, 100.0])
