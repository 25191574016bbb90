"""Tables of a page. Each cell says what it is, so that a narrow screen may put a row's cells one below the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from porter.reports.charts import gauge
from porter.reports.document import Finding, interval, number
from porter.reports.markup import Markup, tag

SIGNS = {"pass": "✓ pass", "fail": "✕ fail", "inconclusive": "? inconclusive", "measured": "· measured"}
COMPARED = {"weights": "bytes", "semantics": "float32"}


def table(names: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> Markup:
    """Under its names, without the columns in which there is nothing."""
    found = list(rows)
    used = [n for n in range(len(names)) if n == 0 or any(row[n] for row in found)]
    names, found = [names[n] for n in used], [[row[n] for n in used] for row in found]
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in names)))
    body = tag("tbody", *(_row(names, row) for row in found))
    return tag("div", tag("table", tag("caption", caption), head, body), class_="table")


def _row(names: Sequence[str], cells: Sequence[str]) -> Markup:
    first, *others = zip(names, cells, strict=True)
    rest = (tag("td", cell, data_label=name, class_=None if cell else "empty") for name, cell in others)
    return tag("tr", tag("th", first[1], scope="row"), *rest)


def finding_table(red: Sequence[Finding], dtype: str) -> Markup:
    """What did not pass, at which dtype it was compared, and the limit that it needed."""
    names = ("check", "level", "compared in", "status", "value", "limit", "would pass at", "detail")
    return table(names, (_finding(finding, dtype) for finding in red), "what did not pass")


def _finding(finding: Finding, dtype: str) -> list[str]:
    times = f", {number(finding.needed / finding.limit)} times" if finding.needed and finding.limit else ""
    needed = "no limit" if finding.needed is None else number(finding.needed) + times
    numbers = [number(finding.value), number(finding.limit), needed]
    compared = COMPARED.get(finding.level, dtype)
    return [finding.name, finding.level, compared, _status(finding.status), *numbers, finding.detail]


def check_table(checks: Iterable[Mapping[str, Any]]) -> Markup:
    """All of a level, each with a gauge of its value and interval against its limit."""
    names = ("check", "status", "value", "limit", "95 %", "against the limit", "port", "original", "detail")
    return table(names, (_check(check) for check in checks), "the checks of this level")


def _check(check: Mapping[str, Any]) -> list[str]:
    sides = [_side(check, side) for side in ("port", "original")]
    numbers = [number(check["value"]), number(check["limit"]), interval(check)]
    return [check["name"], _status(check["status"]), *numbers, gauge(check), *sides, check["detail"]]


def _side(check: Mapping[str, Any], side: str) -> str:
    return f"{number(check[side])} ±{number(check[f'{side}_standard_error'])}" if side in check else ""


def _status(status: str) -> Markup:
    return tag("span", SIGNS[status], class_=f"status {status}")


def error_table(entries: Iterable[Mapping[str, Any]]) -> Markup:
    """The numbers of the charts of errors."""
    names = ("quantity", "place", "port", "original", "ratio", "limit")
    rows = ([str(e["quantity"]), e["place"], *(number(e[name]) for name in names[2:])] for e in entries)
    return table(names, rows, "errors by place")
