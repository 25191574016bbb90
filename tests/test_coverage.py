"""porter targets --coverage: what becomes of every family on a front end, and why something is refused."""

from __future__ import annotations

from typing import Any

import pytest
from command import run

from porter.coverage import coverage
from porter.errors import TargetError
from porter.families import families


def cells(target: str, frontend: str) -> list[dict[str, Any]]:
    found = run("targets", target, "--coverage", "--json")
    assert found.code == 0, found
    return [cell for cell in found.json()["cells"] if cell["frontend"] == frontend]


def test_every_family_goes_through_with_operators_of_the_vendor() -> None:
    found = cells("ascend-910b", "cann-atc")
    assert {cell["family"] for cell in found} == set(families())
    assert all(cell["status"] in {"ok", "expanded"} and cell["shape"] is None for cell in found)
    without = {cell["family"] for cell in found if cell["status"] == "expanded"}
    assert without == {"phi3"}  # heads of 96 features, which the vendor's operators do not take


def test_or_in_fixed_sizes_where_there_are_no_others() -> None:
    found = cells("canaan-k230", "nncase")
    assert {cell["status"] for cell in found} == {"expanded"}
    assert {cell["shape"] for cell in found} == {"batch=1,sequence=16,context=64"}


def test_a_refusal_says_why(tmp_path: Any) -> None:
    path = tmp_path / "little.toml"
    path.write_text('name = "little"\nopset = 17\n[operators]\nAdd = [{ opsets = "7-17" }]\n')
    found = cells(path, "little")
    assert {cell["status"] for cell in found} == {"refused"}
    assert all("unknown operator" in cell["reason"] or "it lacks " in cell["reason"] for cell in found)
    words = run("targets", path, "--coverage").out
    assert "refused llama on little: little does not take this graph: " in words


def test_what_is_assumed_is_said() -> None:
    words = run("targets", "cambricon-mlu590", "--coverage").out
    (row,) = [line for line in words.splitlines() if line.startswith(" magicmind")]
    assert row.split() == ["magicmind", "(assumed,", "fixed", "sizes)", "-", "all", str(len(families())), "-"]


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(TargetError, match="no target is called 'ascnd'"):
        coverage("ascnd")
