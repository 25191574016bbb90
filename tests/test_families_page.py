"""docs/families.md and `porter convert --list-families` say what the code knows."""

from __future__ import annotations

import re

import pytest
from command import run
from families_page import PAGE, everywhere, lowered, written

from porter.families import families


def told() -> dict[str, str]:
    """What the page says of each family's front ends."""
    rows = re.findall(r"^\| (\w+) \|.*\| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
    return {name: last for name, last in rows if name in families()}


def test_the_page_is_what_would_be_written() -> None:
    assert set(told()) == set(families()), "python tests/families_page.py writes it anew"
    assert PAGE.read_text() == written(told())
    assert everywhere() in set(told().values())


@pytest.mark.slow
def test_what_it_says_of_front_ends_is_so() -> None:
    assert told() == lowered()


def test_families_are_listed_without_a_checkpoint() -> None:
    found = run("convert", "--list-families")
    assert found.code == 0
    for name, family in families().items():
        assert name in found.out
        assert all(kind in found.out for kind in family.model_types)
    (row,) = [line for line in found.out.splitlines() if line.split()[:1] == ["mixtral"]]
    assert row.split() == ["mixtral", "mixtral", "grouped-query", "2", "of", "8", "65,536"]
