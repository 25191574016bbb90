"""Flips and loads, on hand-made routes."""

from __future__ import annotations

import numpy as np
import pytest

from porter.verify.experts import Experts, first_flips, flipped, load_difference, loads
from porter.verify.intervals import Pair
from porter.verify.report import ExpertLoad

ROUTES = np.array([[[0, 1], [2, 1], [3, 0]], [[0, 1], [0, 1], [0, 2]]])  # two prompts of three tokens, two experts each


def test_the_order_of_experts_is_no_flip() -> None:
    other = ROUTES[..., ::-1].copy()
    assert flipped(other, ROUTES).tolist() == [[0, 0, 0], [0, 0, 0]]
    other[1, 2] = [3, 0]
    assert flipped(other, ROUTES).tolist() == [[0, 0, 0], [0, 0, 1]]


def test_only_the_first_flip_of_a_token_is_its_own() -> None:
    flips = np.array([[[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]], [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]])
    assert first_flips(flips).tolist() == [1, 1, 1 + 4]


def test_loads_are_counted_by_prompt() -> None:
    assert loads(ROUTES, 5).tolist() == [[2, 2, 1, 1, 0], [3, 2, 1, 0, 0]]


def test_the_largest_difference_of_loads() -> None:
    own = np.array([[5.0, 5, 0], [5, 5, 0]])
    port = np.array([[5.0, 4, 1], [5, 2, 3]])
    check = load_difference({1: Pair(own, own), 4: Pair(port, own)})
    assert (check.value, check.status, check.limit) == (pytest.approx(0.2), "measured", None)
    assert check.detail.startswith("layer 4, expert 1; standard error 0.0")
    assert check.measured is not None
    assert (check.measured.port, check.measured.original) == (pytest.approx(0.3), 0.5)
    assert check.measured.port_error == pytest.approx(0.1 / 2**0.5, rel=0.1)  # of two prompts, 0.4 and 0.2


def test_what_is_told_of_a_call() -> None:
    found = Experts()
    exact = {1: ROUTES, 3: ROUTES}
    flat = ROUTES.reshape(6, 2)
    port = {1: flat.copy(), 3: flat.copy()}
    port[1][0], port[3][:2] = [4, 0], [4, 2]
    scores = {1: np.zeros((6, 5)), 3: np.zeros((6, 5))}
    found.add(port, {1: flat, 3: flat}, exact, scores)
    changed, rerouted, difference = found.checks()
    assert (changed.name, changed.value) == ("routes changed", pytest.approx(3 / 12))
    assert changed.detail == "of port and original, layer 1: 1 and 0, layer 3: 2 and 0"
    assert (rerouted.name, rerouted.value) == ("tokens rerouted", pytest.approx(2 / 6))
    assert rerouted.detail == "first of port and original, layer 1: 1 and 0, layer 3: 1 and 0"
    assert difference.value == pytest.approx(2 / 12)
    assert found.figures()[1] == ExpertLoad(3, (4, 2, 3, 1, 2), (5, 4, 2, 1, 0))


def test_a_model_without_routers_tells_nothing() -> None:
    assert (Experts().checks(), Experts().figures()) == ([], ())
