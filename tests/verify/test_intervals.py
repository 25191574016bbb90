"""Verdicts that know what they do not know, on hand-made numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from porter.verify.intervals import (
    Pair,
    Sides,
    judge,
    mean,
    percentile,
    pooled,
    root_mean,
    root_pooled,
    size_pooled,
)


def pair(port: object, own: object) -> Pair:
    """One value for each prompt."""
    return Pair(np.array(port, np.float64)[:, None], np.array(own, np.float64)[:, None])


def steady(ratio: float) -> Pair:
    """Of forty prompts, each with the same ratio."""
    own = np.random.default_rng(0).uniform(1, 2, 40)
    return pair(own * ratio, own)


@pytest.mark.parametrize(("ratio", "status"), [(0.5, "pass"), (1.99, "pass"), (2.01, "fail"), (30, "fail")])
def test_prompts_that_agree_decide(ratio: float, status: str) -> None:
    check = judge("error", steady(ratio), mean, 2.0, 0.0)
    assert (check.status, check.value) == (status, pytest.approx(ratio))
    assert check.measured is not None
    assert check.measured.interval == pytest.approx((ratio, ratio))


def test_prompts_that_do_not_agree_are_inconclusive() -> None:
    check = judge("error", pair([1, 1, 1, 9], [1, 1, 1, 1]), mean, 2.0, 0.0)
    assert (check.status, check.value) == ("inconclusive", 3)
    assert check.measured is not None
    assert check.measured.interval == (1, pytest.approx(7, abs=2.1))
    assert "4 prompts leave the ratio between 1 and" in check.detail
    assert "--dtype" in check.detail


def test_more_prompts_decide() -> None:
    generator = np.random.default_rng(1)
    few, many = (generator.lognormal(0, 1, (2, n)) for n in (8, 2000))
    assert judge("error", pair(few[0] * 1.6, few[1]), mean, 2.0, 0.0).status == "inconclusive"
    assert judge("error", pair(many[0] * 1.6, many[1]), mean, 2.0, 0.0).status == "pass"


def test_the_prompts_are_paired() -> None:
    """One prompt is a thousand times harder than the others, for both sides: that is no uncertainty of the ratio."""
    own = np.array([1, 1, 1, 1, 1000.0])
    assert judge("error", pair(1.9 * own, own), mean, 2.0, 0.0).status == "pass"


def test_the_standard_error_is_that_of_a_mean() -> None:
    values = np.random.default_rng(2).normal(5, 1, 400)
    measured = judge("error", pair(values, values * 2), mean, 2.0, 0.0).measured
    assert measured is not None
    assert (measured.port, measured.original) == (values.mean(), 2 * values.mean())
    assert measured.port_error == pytest.approx(values.std() / 20, rel=0.1)
    assert measured.original_error == pytest.approx(values.std() / 10, rel=0.1)


def test_the_same_numbers_give_the_same_verdict() -> None:
    given = pair(np.random.default_rng(3).uniform(1, 3, 9), np.ones(9))
    assert judge("error", given, mean, 2.0, 0.0) == judge("error", given, mean, 2.0, 0.0)


@pytest.mark.parametrize(
    ("port", "own", "floor", "value", "status"),
    [
        (0, 0, 1e-9, 1, "pass"),  # nothing is off on either side
        (1e-10, 0, 1e-9, 1.1, "pass"),
        (1e-3, 0, 1e-9, 1e6, "fail"),
    ],
)
def test_an_error_below_the_floor_is_as_good_as_none(
    port: float, own: float, floor: float, value: float, status: str
) -> None:
    check = judge("error", pair([port] * 4, [own] * 4), mean, 2.0, floor)
    assert (check.value, check.status) == (pytest.approx(value, rel=1e-3), status)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number(bad: float) -> None:
    assert judge("error", pair([1, bad], [1, 1]), mean, 2.0, 0.0).status == "fail"
    assert judge("error", pair([1, bad], [1, bad]), mean, 2.0, 0.0).status == "inconclusive"
    assert judge("error", pair([1, 1], [1, bad]), mean, None, 0.0).status == "inconclusive"
    assert judge("error", pair([1, bad], [1, 1]), mean, None, 0.0).status == "fail"


def test_without_a_limit_the_ports_figure_is_told() -> None:
    check = judge("error", pair([3, 5], [1, 1]), mean, None, 0.0)
    assert (check.status, check.value, check.limit) == ("measured", 4, None)
    assert check.measured is not None
    assert check.measured.interval is None


VALUES = np.array([[1.0, 9, 4], [16, 25, 36]])  # two prompts of three tokens


def test_statistics_are_over_prompts_and_tokens() -> None:
    assert mean(VALUES) == pytest.approx(91 / 6)
    assert root_mean(VALUES) == pytest.approx((91 / 6) ** 0.5)
    assert [float(percentile(p)(VALUES)) for p in (0, 100)] == [1, 36]
    assert float(percentile(50)(VALUES)) in {9, 16}  # one that was measured


SUMS = np.array([[6.0, 2], [-15, 1]])  # two prompts, a sum and a count of each


def test_sums_and_counts_are_pooled() -> None:
    assert (pooled(SUMS), size_pooled(SUMS)) == (-3, 3)
    assert root_pooled(np.abs(SUMS)) == pytest.approx(7**0.5)
    assert pooled(np.zeros((3, 2))) == 0  # nothing was counted
    drawn = np.stack([SUMS, SUMS[[0, 0]], SUMS[[1, 1]]])
    assert pooled(drawn).tolist() == [-3, 3, -15]


def test_batches_become_one() -> None:
    sides = Sides()
    sides.add(SUMS, SUMS + 1)
    sides.add(SUMS[:1], SUMS[:1])
    assert sides.pair().port.tolist() == [[6, 2], [-15, 1], [6, 2]]
    assert sides.pair().own.shape == (3, 2)


@pytest.mark.parametrize("statistic", [mean, root_mean, percentile(90)])
def test_statistics_of_many_drawings_at_once(statistic: object) -> None:
    drawn = np.stack([VALUES, VALUES[::-1], VALUES[[0, 0]]])
    assert callable(statistic)
    np.testing.assert_allclose(statistic(drawn), [statistic(one) for one in drawn])
