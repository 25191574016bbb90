"""How far a choice was from a tie, on hand-made scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from porter.verify.choices import Choice, Leads, expert_lead, group_lead

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
    assert found.lead.tolist() == pytest.approx([lead, 0])


@pytest.mark.parametrize(
    ("used", "kept", "lead"),
    [([0, 2], 2, 0), ([0, 0], 2, 0), ([0, 1], 2, 0.2), ([3, 1], 2, 0.5), ([3, 1], 3, 0.3), ([3, 1], 4, 0)],
)
def test_the_lead_of_the_last_good_group(used: list[int], kept: int, lead: float) -> None:
    scores = np.array([[0.9, 0.4, 0.6, 0.1]])
    assert group_lead(scores, np.array([used]), kept).lead.tolist() == pytest.approx([lead])


def test_what_was_taken_for_what() -> None:
    scores = np.array([[0.9, 0.5, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4]])
    experts = expert_lead(scores, np.array([[3, 0], [2, 1]]))
    assert (experts.taken.tolist(), experts.passed.tolist()) == ([3, 1], [2, 3])
    groups = group_lead(scores, np.array([[3, 0], [2, 0]]), 2)
    assert (groups.taken.tolist(), groups.passed.tolist()) == ([3, 0], [2, 2])


def leads(*lead: float) -> Leads:
    """Of tokens that took expert 5 for 6."""
    return Leads(np.array(lead), np.full(len(lead), 5), np.full(len(lead), 6))


def test_the_largest_lead_is_held_against_the_largest_noise() -> None:
    choice = Choice()
    exact = np.array([[0.5, OUT], [0.25, 0.125]])
    choice.add(leads(0.0, 0.03), exact + np.array([[0.01, 0], [0, 0]]), exact)
    choice.add(leads(0.01, 0.0), exact + np.array([[0, 0], [0, -0.02]]), exact)
    assert choice.ratio() == pytest.approx(1.5)


@pytest.mark.parametrize(("lead", "ratio"), [(0.0, 0.0), (1e-9, math.inf)])
def test_without_noise_nothing_may_change(lead: float, ratio: float) -> None:
    choice, scores = Choice(), np.array([[0.5, 0.25]])
    choice.add(leads(lead), scores, scores)
    assert choice.ratio() == ratio


def test_the_worst_choice_is_named() -> None:
    choice, scores = Choice(), np.zeros((6, 8))
    choice.add(leads(0, 0, 0, 0, 0.5, 0), scores, scores + 0.25, first=8, length=3)
    choice.add(leads(0, 0.1, 0, 0, 0, 0), scores, scores, first=16, length=3)
    assert choice.told() == "prompt 9, token 1: 5 for 6, 0.5 apart; the original rounds by up to 0.25"
    assert Choice().told() == ""
