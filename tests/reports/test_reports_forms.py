"""JUnit, SARIF and Markdown as their readers take them: red where the command ends with 1 or 3, and whole whatever
anybody calls a file.
"""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from verdicts import EVERY, HOSTILE, failed, hostile, inconclusive, passed, report

from porter.reports.document import findings, located, number, to_json
from porter.reports.junit import to_junit
from porter.reports.markdown import BUDGET, to_markdown, workflow_commands
from porter.reports.sarif import to_sarif
from porter.verify.report import Check, Level, ParityReport

LOCATED = {
    "scenario": "chunked",
    "quantity": "layers",
    "layer": 2,
    "block": "mlp",
    "ratio": 76879.5,
    "limit": 10.0,
    "graph": "block.onnx",
    "folder": "build/fault",
}


@pytest.fixture(params=EVERY)
def verdict(request: pytest.FixtureRequest) -> ParityReport:
    """One of every kind."""
    return EVERY[request.param]()


# ------------------------------------------------------------------------------ what did not pass


def test_the_limit_that_would_have_passed() -> None:
    found = {(f.level, f.name): f.needed for f in findings(failed().to_json())}
    assert found == {
        ("weights", "weights unlike their source"): 2,
        ("semantics", "prefill: layers"): 76879.5,
        ("semantics", "decode: layers"): None,  # no limit holds what is infinite
        ("dtype", "layers"): 13.75,  # the upper end of the interval, which has to be within
        ("dtype", "logits"): 1.9,
    }


def test_every_verdict_that_is_no_pass_has_a_finding(verdict: ParityReport) -> None:
    assert bool(findings(verdict.to_json())) == (verdict.exit_code != 0)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (123456, "123456"), (0.98765, "0.988"), (76879.2, "76879"), (1e9, "1e+09"), ("inf", "inf"), (None, "")],
)
def test_a_number_in_words(value: Any, words: str) -> None:
    assert number(value) == words


def test_json_is_the_document(verdict: ParityReport) -> None:
    document = verdict.to_json()
    assert json.loads(to_json(document)) == document  # half a pair of surrogates too


# ------------------------------------------------------------------------------ JUnit


def junit(found: ParityReport) -> ElementTree.Element:
    return ElementTree.fromstring(to_junit(found.to_json()))


def test_junit_has_a_suite_for_each_level_and_a_case_for_each_check() -> None:
    root = junit(failed())
    assert [suite.get("name") for suite in root] == ["weights", "semantics", "dtype"]
    assert [len(suite.findall("testcase")) for suite in root] == [1, 3, 3]
    assert [failure.get("type") for failure in root.iter("failure")] == ["fail"] * 4 + ["inconclusive"]
    told = root.find(".//testcase[@name='cost: KL mean']/system-out")
    assert told is not None
    assert told.text == "measured: 0.001 (port 0.001 ±0.0001, original 0.002 ±inf)"


def test_junit_counts_what_it_holds(verdict: ParityReport) -> None:
    root = junit(verdict)
    for element in (root, *root):
        assert int(element.attrib["tests"]) == len(list(element.iter("testcase")))
        assert int(element.attrib["failures"]) == len(list(element.iter("failure")))


def test_junit_is_red_exactly_where_the_command_is(verdict: ParityReport) -> None:
    assert (junit(verdict).attrib["failures"] != "0") == (verdict.exit_code != 0)


def test_junit_says_which_limit_would_have_passed() -> None:
    (failure, *_) = junit(inconclusive()).iter("failure")
    assert failure.get("message") == (
        "inconclusive: logits = 1.2, limit 1.5; 32 prompts leave it open; a limit of 1.9 would have passed"
    )


# ------------------------------------------------------------------------------ SARIF


def sarif(found: ParityReport) -> dict[str, Any]:
    document = json.loads(to_sarif(found.to_json()))
    assert (document["version"], document["$schema"]) == ("2.1.0", "https://json.schemastore.org/sarif-2.1.0.json")
    (run,) = document["runs"]
    return dict(run)


def test_sarif_has_what_code_scanning_requires(verdict: ParityReport) -> None:
    run = sarif(verdict)
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    for rule in rules:
        assert all(rule[name]["text"] for name in ("shortDescription", "fullDescription", "help"))
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        assert result["partialFingerprints"]["primaryLocationLineHash"]
        (location,) = result["locations"]
        place = location["physicalLocation"]
        assert place["artifactLocation"]["uri"].endswith("/porter.json")
        assert place["region"] == {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 2}


def test_sarif_has_a_rule_for_each_quantity_and_a_result_for_each_finding() -> None:
    run = sarif(failed())
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == ["weights/weights-unlike-their-source", "semantics/layers", "dtype/layers", "dtype/logits"]
    results = [(result["ruleId"], result["level"]) for result in run["results"]]
    assert results == [(rules[0], "error"), *[(rules[1], "error")] * 2, (rules[2], "error"), (rules[3], "warning")]
    hashes = {result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]}
    assert len(hashes) == 5  # two scenarios of one rule are two alerts
    assert run["automationDetails"]["id"] == "porter-verify/ascend-910b/bfloat16/"


def test_sarif_of_a_pass_has_the_rules_and_no_results() -> None:
    run = sarif(passed())
    assert run["results"] == []
    assert len(run["tool"]["driver"]["rules"]) == 3


@pytest.mark.parametrize(
    ("port", "uri"),
    [("build/port", "build/port/porter.json"), ("/a b/ü#?", "file:///a%20b/%C3%BC%23%3F/porter.json")],
)
def test_sarif_names_the_manifest(port: str, uri: str) -> None:
    found = report(Level("weights", (Check("files changed", 1, 0, "fail"),)), port=port)
    (result,) = sarif(found)["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri


# ------------------------------------------------------------------------------ Markdown


def test_markdown_tells_the_verdict_and_what_would_have_passed() -> None:
    text = to_markdown(failed().to_json()).decode()
    assert text.startswith("## ❌ parity fails: ascend-910b in bfloat16\n")
    assert "| dtype | ❌ layers | 11.6 | 1.5 | 13.8 | worst at 2 |" in text
    assert "| semantics | ❌ decode: layers | inf | 10 | no limit | worst at 1 |" in text
    assert text.count("<details>") == text.count("</details>") == 3
    assert "What did not pass" not in to_markdown(passed().to_json()).decode()


def test_markdown_names_the_dtype_that_would_have_passed() -> None:
    assert "In float32 the same graph passed" in to_markdown(inconclusive().to_json()).decode()
    for other in (passed(), failed()):
        assert "In float32" not in to_markdown(other.to_json()).decode()


def test_markdown_makes_no_markup_of_names() -> None:
    text = to_markdown(hostile().to_json()).decode()
    assert not re.search(r"(?<!\\)<(?!/?details>|/?summary>)", text)
    assert not re.search(r"(?<!\\)`", text)
    rows = [line for line in text.splitlines() if line.startswith("| semantics")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [7]  # six cells


def test_markdown_stays_below_a_mebibyte() -> None:
    checks = tuple(Check(f"check {n}", n, 0, "fail", "ü" * 2000) for n in range(5000))
    text = to_markdown(report(Level("weights", checks)).to_json())
    assert 900_000 < len(text) <= BUDGET < 2**20
    assert text.decode().endswith("The JSON report has all of it.\n")


# ------------------------------------------------------------------------------ annotations


def commands(*checks: Check) -> list[str]:
    return workflow_commands(report(Level("weights", checks)).to_json())


def test_an_annotation_for_each_finding() -> None:
    lines = workflow_commands(failed().to_json())
    assert len(lines) == 5
    assert lines[-1].startswith("::warning title=porter verify%2C dtype::inconclusive: logits = 1.2, limit 1.5;")
    assert workflow_commands(passed().to_json()) == []


@pytest.mark.parametrize(("count", "shown"), [(10, 10), (11, 10), (500, 10)])
def test_ten_annotations_of_a_kind_are_all_that_github_shows(count: int, shown: int) -> None:
    found = commands(*(Check(f"check {n}", 1, 0, "fail") for n in range(count)))
    assert len(found) == shown
    assert ("more did not pass" in found[-1]) == (count > shown)
    if count > shown:
        assert f"{count - 9} more" in found[-1]


def test_an_annotation_is_one_line_and_no_other_command() -> None:
    (line,) = commands(Check("a\n::stop-commands::x", 1, 0, "fail", "100 %\r\n::error::b"))
    assert line.startswith("::error title=porter verify%2C weights::fail: a%0A::stop-commands::x = 1, limit 0; 100 %25")
    assert len(line.splitlines()) == 1


# ------------------------------------------------------------------------------ where a fault was located


def test_a_located_fault_is_in_every_form() -> None:
    document = failed().to_json() | {"located": LOCATED}
    words = "first seen in layer 2, mlp: layers 76880 times the original's own error, limit 10 (chunked); "
    assert located(document) == words + "saved in build/fault"
    assert words in to_markdown(document).decode()
    assert json.loads(to_sarif(document))["runs"][0]["properties"]["located"].startswith(words)
    properties = ElementTree.fromstring(to_junit(document)).iter("property")
    assert words in "".join(p.attrib["value"] for p in properties if p.get("name") == "located")
    assert located(failed().to_json() | {"located": None}) == ""
    nowhere = LOCATED | {"layer": None, "block": None, "folder": None, "quantity": "logits"}
    assert located({"located": nowhere}).startswith("first seen in the logits: logits 76880 times")
    assert "saved" not in located({"located": nowhere})


@pytest.mark.parametrize("form", [to_junit, to_sarif])
def test_what_xml_and_terminals_cannot_hold_is_replaced(form: Any) -> None:
    text = form(hostile().to_json()).decode()
    assert "\x1b" not in text
    assert "\\u001b" not in text
    assert "\udcff" in HOSTILE
    assert "\ufffd" in text
