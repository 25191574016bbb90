"""A verdict is the worst that was found, and a number that is none passes nothing."""

from __future__ import annotations

import json
import math
from typing import get_args

import pytest

from porter.verify.report import (
    Asked,
    Check,
    Closeness,
    DivergenceAt,
    ErrorAt,
    ExpertLoad,
    Figures,
    Level,
    Measured,
    ParityReport,
    Status,
    worst,
)

PASS, FAIL, OPEN = (Check(status, 0, 0, status) for status in get_args(Status))


def report(*checks: Check, closeness: Closeness | None = None) -> ParityReport:
    levels = tuple(Level(f"level {n}", (check,)) for n, check in enumerate(checks))
    return ParityReport("port", "checkpoint", "device", "float32", levels, closeness, 1.23456, ("a note",))


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["pass"], "pass"),
        (["pass", "inconclusive", "pass"], "inconclusive"),
        (["inconclusive", "fail", "pass"], "fail"),
        (["fail"], "fail"),
        ([], "inconclusive"),  # nothing was looked at
    ],
)
def test_worst(statuses: list[Status], expected: Status) -> None:
    assert worst(statuses) == expected


@pytest.mark.parametrize(
    ("value", "status"),
    [(0, "pass"), (10, "pass"), (10.001, "fail"), (math.inf, "fail"), (-math.inf, "fail"), (math.nan, "fail")],
)
def test_at_most(value: float, status: Status) -> None:
    assert Check.at_most("ratio", value, 10).status == status


@pytest.mark.parametrize(
    ("checks", "status", "code"),
    [
        ([PASS, PASS], "pass", 0),
        ([PASS, FAIL, OPEN], "fail", 1),
        ([PASS, OPEN], "inconclusive", 3),
        ([], "inconclusive", 3),
    ],
)
def test_the_exit_code_says_the_status(checks: list[Check], status: Status, code: int) -> None:
    found = report(*checks)
    assert (found.status, found.exit_code, found.to_json()["passed"]) == (status, code, code == 0)


def test_a_level_without_checks_proves_nothing() -> None:
    assert Level("empty", ()).status == "inconclusive"


TOLD = Check("cost", 7.0, None, "measured", measured=Measured(7.0, 0.5, 6.0, math.inf, None))


def test_what_is_only_told_decides_nothing() -> None:
    assert Level("told", (TOLD,)).status == "inconclusive"
    assert Level("told", (TOLD, PASS)).status == "pass"
    assert Level("told", (TOLD, FAIL)).status == "fail"


def test_json_of_what_was_measured() -> None:
    assert TOLD.to_json() == {
        "name": "cost",
        "value": 7.0,
        "limit": None,
        "status": "measured",
        "detail": "",
        "port": 7.0,
        "port_standard_error": 0.5,
        "original": 6.0,
        "original_standard_error": "inf",
        "interval": None,
    }
    judged = Check("error", 1.1, 2.0, "pass", measured=Measured(1.1, 0.1, 1.0, 0.1, (0.9, 1.3)))
    assert judged.to_json()["interval"] == [0.9, 1.3]


def test_more_prompts_can_decide_what_an_interval_left_open() -> None:
    undecided = Check("error", 1.1, 1.2, "inconclusive", measured=Measured(1.1, 0.1, 1.0, 0.1, (0.9, 1.3)))
    assert Level("dtype", (PASS, undecided)).open
    assert not Level("dtype", (FAIL, undecided)).open  # it is decided
    assert not Level("dtype", (PASS, OPEN)).open  # nothing was measured
    assert not Level("dtype", (PASS, TOLD)).open


def test_json_has_the_fields_of_the_contract() -> None:
    found = report(PASS, FAIL, closeness=Closeness(True, 1e-5, 0.999, 1e-9)).to_json()
    assert found == {
        "schema_version": 1,
        "port": "port",
        "against": "checkpoint",
        "target": "device",
        "dtype": "float32",
        "passed": False,
        "status": "fail",
        "levels": [
            {
                "name": f"level {n}",
                "status": s,
                "checks": [{"name": s, "value": 0, "limit": 0, "status": s, "detail": ""}],
            }
            for n, s in enumerate(["pass", "fail"])
        ],
        "greedy_match": True,
        "max_abs_error": 1e-5,
        "cosine": 0.999,
        "kl": 1e-9,
        "prompts": None,
        "figures": {"errors": [], "experts": [], "positions": []},
        "located": None,
        "notes": ["a note"],
        "slice": None,
        "runtime": None,
        "recorded": None,
        "versions": {},
        "port_sha256": None,
        "seconds": 1.235,
    }


def test_json_of_the_prompts() -> None:
    found = ParityReport("a", "b", "c", "float32", (), None, 1.0, prompts=Asked("file", 40, "00ff"))
    assert found.to_json()["prompts"] == {"source": "file", "count": 40, "sha256": "00ff"}


def test_json_of_what_was_not_measured() -> None:
    found = report(PASS).to_json()
    assert [found[name] for name in ("greedy_match", "max_abs_error", "cosine", "kl")] == [None] * 4


def test_json_takes_numbers_that_json_has_not() -> None:
    check = Check.at_most("ratio", math.nan, 10)
    found = report(check, closeness=Closeness(False, math.inf, math.nan, 0.0)).to_json()
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text)["levels"][0]["checks"][0]["value"] == "nan"
    assert (found["max_abs_error"], found["cosine"], found["kl"]) == (None, None, 0.0)


def test_the_figures_of_all_levels_become_one() -> None:
    error = ErrorAt("semantics", "prefill", "layers", "1", 1, math.inf, 1e-7, math.inf, 10.0)
    first = Level("a", (PASS,), Figures(errors=(error,)))
    at = DivergenceAt("drift", 10, math.nan, 1e-9)
    second = Level("b", (PASS,), Figures(experts=(ExpertLoad(1, (3, 0), (2, 1)),), positions=(at,)))
    figures = ParityReport("port", "checkpoint", "device", "float32", (first, second), None, 1.0).to_json()["figures"]
    assert figures["errors"] == [vars(error) | {"port": "inf", "ratio": "inf"}]
    assert figures["experts"] == [{"layer": 1, "port": [3, 0], "original": [2, 1]}]
    assert figures["positions"] == [{"scenario": "drift", "position": 10, "port": "nan", "original": 1e-9}]
