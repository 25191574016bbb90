"""What logits are off, against numbers that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from porter.verify.logits import log_softmax, measure

HALF, QUARTER = [math.log(0.5)] * 2, [math.log(0.25), math.log(0.75)]
AFTER = np.array([[0]])


def one(logits: list[float], exact: list[float]) -> dict[str, float]:
    """Of one token, and the first is next."""
    found = measure(np.array([[logits]]), np.array([[exact]]), AFTER)
    return {name: float(values[0, 0]) for name, values in found.items()}


def test_two_distributions() -> None:
    found = one(QUARTER, HALF)
    assert found["divergence"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert found["change"] == pytest.approx(-0.25)
    assert found["surprise"] == pytest.approx(math.log(2))
    assert (found["choice"], found["agreement"]) == (1, 0)
    assert found["loss"] == pytest.approx(math.log(4))
    assert one(HALF, QUARTER)["divergence"] == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


@pytest.mark.parametrize("shift", [0, 7, -1000])
def test_the_same_distribution_whatever_the_logits_shift(shift: float) -> None:
    assert one([x + shift for x in QUARTER], QUARTER) == pytest.approx(one(QUARTER, QUARTER), abs=1e-9)


def test_float32_logits_are_measured_in_float64() -> None:
    exact = np.random.default_rng(0).standard_normal((2, 3, 500))
    near = measure(exact.astype(np.float32), exact, np.zeros((2, 3), int))
    assert near["divergence"].shape == (2, 3)
    assert 0 < near["divergence"].max() < 1e-13


def test_large_logits_do_not_overflow() -> None:
    assert np.exp(log_softmax(np.array([1e4, 1e4, 0]))).tolist() == pytest.approx([0.5, 0.5, 0])
