"""How far a choice was from a tie, on hand-made scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from porter.verify.choices import Choice, expert_lead, group_lead

OUT = -math.inf


@pytest.mark.parametrize(
    ("scores", "chosen", "lead"),
    [
        ([0.9, 0.5, 0.1], [0], 0),
        ([0.9, 0.5, 0.1], [1, 0], 0),  # in whatever order
        ([0.9, 0.5, 0.1], [1], 0.4),
        ([0.9, 0.5, 0.1], [0, 2], 0.4),
        ([0.9, 0.5, 0.1], [1, 2], 0.8),
        ([0.9, 0.9, 0.1], [1], 0),  # an exact tie goes either way
        ([0.9, 0.5, 0.1], [0, 1, 2], 0),  # nobody is left out
        ([0.9, OUT, 0.1], [0, 2], 0),  # outside the groups
        ([0.9, OUT, 0.1], [0, 1], math.inf),  # from outside the groups
        ([0.9, OUT, OUT], [0, 1], 0),  # where nothing else is left
    ],
)
def test_the_lead_of_the_best_expert_left_out(scores: list[float], chosen: list[int], lead: float) -> None:
    found = expert_lead(np.array([scores, [1.0, 0, 0]]), np.array([chosen, [0, 1, 2][: len(chosen)]]))
    assert found.tolist() == pytest.approx([lead, 0])


@pytest.mark.parametrize(
    ("used", "kept", "lead"),
    [([0, 2], 2, 0), ([0, 0], 2, 0), ([0, 1], 2, 0.2), ([3, 1], 2, 0.5), ([3, 1], 3, 0.3), ([3, 1], 4, 0)],
)
def test_the_lead_of_the_last_good_group(used: list[int], kept: int, lead: float) -> None:
    scores = np.array([[0.9, 0.4, 0.6, 0.1]])
    assert group_lead(scores, np.array([used]), kept).tolist() == pytest.approx([lead])


def test_the_largest_lead_is_held_against_the_largest_noise() -> None:
    choice = Choice()
    exact = np.array([[0.5, OUT], [0.25, 0.125]])
    choice.add(np.array([0.0, 0.03]), exact + np.array([[0.01, 0], [0, 0]]), exact)
    choice.add(np.array([0.01, 0.0]), exact + np.array([[0, 0], [0, -0.02]]), exact)
    assert choice.ratio() == pytest.approx(1.5)


@pytest.mark.parametrize(("lead", "ratio"), [(0.0, 0.0), (1e-9, math.inf)])
def test_without_noise_nothing_may_change(lead: float, ratio: float) -> None:
    choice, scores = Choice(), np.array([[0.5, 0.25]])
    choice.add(np.array([lead]), scores, scores)
    assert choice.ratio() == ratio
