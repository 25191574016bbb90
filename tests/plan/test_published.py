"""The roofline beside what real systems reach: never below, and above three times only with a reason."""

from __future__ import annotations

import pytest
from command import ROOT
from published import FIGURES, Published, row

PAGE = (ROOT / "docs" / "plan.md").read_text()


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f"{f.name}, {f.phase}")
def test_no_system_is_faster_than_its_roofline(figure: Published) -> None:
    ratio = figure.roofline() / figure.measured
    assert ratio >= 1
    assert ratio <= 3 or figure.leaves_out
    assert figure.leaves_out in PAGE


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f"{f.name}, {f.phase}")
def test_the_page_says_how_far_off_it_is(figure: Published) -> None:
    """`python tests/plan/published.py` prints the rows."""
    assert row(figure) in PAGE


def test_every_figure_says_where_it_is_from_and_what_is_assumed() -> None:
    assert all(figure.source and figure.assumed for figure in FIGURES)
    assert len({(figure.name, figure.phase) for figure in FIGURES}) == len(FIGURES)
