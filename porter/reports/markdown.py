"""Markdown for the summary of a CI job, and annotations for its log, both within what GitHub takes: a summary of 1 MiB
and ten annotations of each kind for a step, fifty for a job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from porter.reports.document import VERDICTS, Finding, facts, findings, interval, located, number, other_dtype, plain

BUDGET = 1_000_000  # bytes, of 1 MiB for all that a step appends
ANNOTATIONS = 10  # of each kind
LONGEST = 500  # characters of a detail or an annotation
MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "measured": "·"}
KINDS = {"fail": "error", "inconclusive": "warning"}


def to_markdown(document: Mapping[str, Any]) -> bytes:
    """The file."""
    red = findings(document)
    title = f"## {MARKS[document['status']]} {VERDICTS[document['status']]}: {escaped(document['target'])}"
    lines = [f"{title} in {escaped(document['dtype'])}", "", "| | |", "|---|---|"]
    lines += [_row(pair) for pair in facts(document).items()]
    lines += ["", *(f"> {escaped(note)}" + "  " for note in document["notes"])]
    if place := located(document):
        lines += ["", f"**{escaped(place)}**"]
    if other := other_dtype(document):
        lines += ["", escaped(other)]
    if red:
        lines += [
            "",
            "### What did not pass",
            "",
            *_head("level", "check", "value", "limit", "would pass at", "detail"),
        ]
        lines += [_row(_cells(finding)) for finding in red]
    for level in document["levels"]:
        title = f"{MARKS[level['status']]} {level['name']}: {len(level['checks'])} checks"
        lines += ["", f"<details><summary>{escaped(title)}</summary>", ""]
        lines += _head("check", "value", "limit", "95 %", "status", "detail")
        lines += [_row(_told(check)) for check in level["checks"]]
        lines += ["", "</details>"]
    return _within(lines, BUDGET)


def _within(lines: list[str], budget: int) -> bytes:
    """As many whole lines as there is room for, and what became of the rest."""
    end = "\n</details>\n\nThe rest is left out: more does not fit into a summary. The JSON report has all of it.\n"
    kept: list[bytes] = []
    size = len(end.encode())
    for line in lines:
        data = plain(line).encode() + b"\n"
        size += len(data)
        if size > budget:
            return b"".join(kept) + end.encode()
        kept.append(data)
    return b"".join(kept)


def _head(*names: str) -> list[str]:
    return [_row(names), "|" + "---|" * len(names)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(escaped(cell) for cell in cells)} |"


def _cells(finding: Finding) -> list[str]:
    numbers = [number(value) for value in (finding.value, finding.limit)]
    needed = number(finding.needed) or "no limit"
    return [finding.level, f"{MARKS[finding.status]} {finding.name}", *numbers, needed, finding.detail[:LONGEST]]


def _told(check: Mapping[str, Any]) -> list[str]:
    numbers = [number(check["value"]), number(check["limit"]), interval(check)]
    return [check["name"], *numbers, f"{MARKS[check['status']]} {check['status']}", check["detail"][:LONGEST]]


def escaped(text: str) -> str:
    """As it reads: no table, link, mention, formula or tag is made of what somebody called a file."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>|~&#!@$]|:(?=//))", r"\\\1", line)


def workflow_commands(document: Mapping[str, Any]) -> list[str]:
    """Workflow commands for GitHub's log: what did not pass, and of more than ten of a kind how many are not shown."""
    lines = []
    for status, kind in KINDS.items():
        red = [finding for finding in findings(document) if finding.status == status]
        shown = red if len(red) <= ANNOTATIONS else red[: ANNOTATIONS - 1]
        told = [(f"porter verify, {finding.level}", finding.sentence()) for finding in shown]
        if len(shown) < len(red):
            told.append(("porter verify", f"{len(red) - len(shown)} more did not pass: the reports have them"))
        lines += [f"::{kind} title={_property(title)}::{_message(words)}" for title, words in told]
    return lines


def _message(text: str) -> str:
    return plain(text)[:LONGEST].replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
