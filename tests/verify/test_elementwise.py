"""What single numbers are off, on hand-made numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from porter.verify.elementwise import RULES, Rule, measure, strange
from porter.verify.intervals import percentile, pooled, root_pooled

EXACT = np.array([[4.0, -2.0, 0.5, 0.0], [4.0, -2.0, 0.5, 0.0]])
OFF = np.array([[0.4, 0.1, 0.2, -0.3], [0.0, -0.1, 0.0, 0.1]])
RULE = Rule(small=0.5, nothing=0.0)  # so that below 0.5 * sqrt(81 / 16) a number is small: the last two of each


def found() -> dict[str, np.ndarray]:
    return measure(EXACT + OFF, EXACT, RULE)


def test_the_error_itself() -> None:
    assert root_pooled(found()["square"]) == pytest.approx(math.sqrt((0.16 + 0.01 + 0.04 + 0.09 + 0.01 + 0.01) / 8))


def test_an_error_is_relative_to_what_is_not_small() -> None:
    np.testing.assert_allclose(found()["relative"], [[0.1 + 0.05, 2], [0.05, 2]])
    assert pooled(found()["relative"]) == pytest.approx(0.05)
    np.testing.assert_allclose(found()["largest"], [[0.1], [0.05]])
    assert percentile(100)(found()["largest"]) == pytest.approx(0.1)


def test_what_is_small_is_measured_in_units_of_its_place() -> None:
    unit = 4.0**2 + 2.0**2 + 0.5**2
    np.testing.assert_allclose(found()["small"], [[4 * (0.04 + 0.09) / unit, 2], [4 * 0.01 / unit, 2]])
    larger = measure(1000 * (EXACT + OFF), 1000 * EXACT, RULE)
    np.testing.assert_allclose(larger["small"], found()["small"])
    np.testing.assert_allclose(larger["relative"], found()["relative"])


def test_to_which_side_errors_lean() -> None:
    np.testing.assert_allclose(found()["upward"], [[3 - 1, 4], [1 - 1, 4]])
    np.testing.assert_allclose(found()["outward"], [[1 - 1 + 1, 4], [1, 4]])


def test_a_scale_that_is_off_leans_outward_alone() -> None:
    exact = np.random.default_rng(0).standard_normal((4, 1000))
    noise = np.random.default_rng(1).standard_normal((4, 1000)) * 1e-3
    for factor, leans in ((1.0, False), (1.002, True)):
        leaning = measure(exact * factor + noise, exact, RULES["bfloat16"])
        assert (abs(pooled(leaning["outward"])) > 0.2) == leans
        assert abs(pooled(leaning["upward"])) < 0.05


def test_where_everything_is_nothing() -> None:
    nothing = measure(np.zeros((2, 3)), np.zeros((2, 3)), RULE)
    for name, values in nothing.items():
        assert np.isfinite(values).all(), name
    assert nothing["small"].tolist() == [[0, 3], [0, 3]]


INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("port", "own", "count"),
    [
        ([1, 2, 3], [1, 2, 4], 0),
        ([1, INF, 3], [1, 2, 3], 1),
        ([1, NAN, -INF], [1, 2, 3], 2),
        ([INF, NAN, -INF], [INF, NAN, -INF], 0),  # the dtype's own
        ([INF, NAN, -INF], [-INF, INF, NAN], 3),  # another kind
        ([1, 2, 3], [1, INF, 3], 0),  # the original's alone
    ],
)
def test_values_that_are_not_finite(port: list[float], own: list[float], count: int) -> None:
    assert strange(np.array([port]), np.array([own])) == count
