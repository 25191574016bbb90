"""A page that is one file: style and charts are in it, nothing is fetched and no script runs. It is read in light and
in dark, and on a telephone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from porter import __version__
from porter.reports import charts
from porter.reports.chart import dot
from porter.reports.document import ABOUT, RED, VERDICTS, facts, findings, located, other_dtype
from porter.reports.markup import Markup, joined, tag
from porter.reports.tables import check_table, error_table, finding_table

STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
SIGNS = {"pass": "✓", "fail": "✕", "inconclusive": "?", "measured": "·"}
FIRST = 8  # of what did not pass, and of layers with experts: the rest is shown when asked for


def to_html(document: Mapping[str, Any]) -> bytes:
    """The file."""
    title = f"{VERDICTS[document['status']]}: {document['target']} in {document['dtype']}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Markup(STYLE.read_text(encoding="utf-8"))),
    )
    parts = (_verdict(document), _red(document), _errors(document), _positions(document), _experts(document))
    page = tag("main", *parts, _checks(document), tag("footer", f"porter {__version__}, porter verify"))
    return f"<!doctype html>\n{tag('html', head, tag('body', page), lang='en')}\n".encode()


def _verdict(document: Mapping[str, Any]) -> Markup:
    status = document["status"]
    levels = [_badge(level["status"], f"{level['name']}: {_count(level)}") for level in document["levels"]]
    pairs = [tag("div", tag("dt", name), tag("dd", words)) for name, words in facts(document).items()]
    return tag(
        "header",
        tag("h1", _badge(status, VERDICTS[status])),
        tag("p", f"{document['target']} in {document['dtype']}", class_="lead"),
        tag("p", *levels, class_="levels"),
        tag("dl", *pairs),
        *(tag("p", note, class_="note") for note in document["notes"]),
    )


def _count(level: Mapping[str, Any]) -> str:
    red = sum(check["status"] in RED for check in level["checks"])
    return f"{red} of {len(level['checks'])} not passed" if red else f"{len(level['checks'])} checks"


def _badge(status: str, words: str) -> Markup:
    return tag("span", tag("b", SIGNS[status], aria_hidden="true"), f" {words}", class_=f"badge {status}")


def _section(title: str, *children: str, words: str = "") -> Markup:
    return tag("section", tag("h2", title), *((tag("p", words),) if words else ()), *children)


def _red(document: Mapping[str, Any]) -> Markup:
    """What did not pass, and what would have."""
    red, place = findings(document), located(document)
    if not red:
        return Markup("")
    words = (
        "“Would pass at” is the smallest limit under which a check would have passed, and how many times the limit "
        "that is. Sound ports stay below the limits; what is far beyond them is a mistake, and no limit makes it right."
    )
    parts = [tag("p", place, class_="located")] if place else []
    parts += [tag("p", other)] if (other := other_dtype(document)) else []
    parts.append(finding_table(red[:FIRST], document["dtype"]))
    if red[FIRST:]:
        parts.append(_more(f"{len(red) - FIRST} more", finding_table(red[FIRST:], document["dtype"])))
    return _section("What did not pass, and what would have", *parts, words=words)


# ------------------------------------------------------------------------------ charts


def _errors(document: Mapping[str, Any]) -> Markup:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in document["figures"]["errors"]:
        groups.setdefault(f"{entry['level']}: {entry['scenario']}", []).append(entry)
    shown = [_scenario(title, found) for title, found in groups.items()]
    if not shown:
        return Markup("")
    words = (
        "Root mean square against the original in float64, where it was worst. The band is what the port is allowed: a "
        "multiple of the error that the original itself has at the same dtype."
    )
    legend = _legend(
        (dot(8, 8, "port"), "port"),
        (dot(8, 8, "beyond"), "port, beyond its limit"),
        (dot(8, 8, "none"), "not finite"),
        (tag("line", x1=1, x2=15, y1=8, y2=8, class_="own"), "original"),
        (tag("rect", x=1, y=2, width=14, height=12, class_="band"), "allowed"),
    )
    return _section("Error by layer and block", legend, *shown, words=words)


def _scenario(title: str, entries: list[Mapping[str, Any]]) -> Markup:
    panels = charts.error_panels(entries)
    drawn = [_figure(name, charts.error_chart(name, found)) for name, found in panels.items()]
    return joined(tag("h3", title), tag("div", *drawn, class_="charts"), _more("numbers", error_table(entries)))


def _positions(document: Mapping[str, Any]) -> Markup:
    entries = document["figures"].get("positions", ())
    scenarios = dict.fromkeys(entry["scenario"] for entry in entries)
    drawn = [
        _figure(name, charts.position_chart(name, [e for e in entries if e["scenario"] == name])) for name in scenarios
    ]
    if not drawn:
        return Markup("")
    words = "How far the next token's distribution is from the original's in float64, along a text."
    legend = _sides(tag("line", x1=1, x2=15, y1=8, y2=8, class_="line own"))
    return _section("KL by position", legend, tag("div", *drawn, class_="charts"), words=words)


def _experts(document: Mapping[str, Any]) -> Markup:
    loads = document["figures"]["experts"]
    if not loads:
        return Markup("")
    drawn = [_figure(f"layer {load['layer']}", charts.expert_chart(load)) for load in loads]
    rest = _more(f"{len(drawn) - FIRST} more layers", tag("div", *drawn[FIRST:], class_="charts"))
    words = "How many tokens of the prompts each expert was given, each side choosing freely."
    shown = tag("div", *drawn[:FIRST], class_="charts")
    legend = _sides(tag("rect", x=2, y=2, width=12, height=12, class_="bars"))
    return _section("Load of the experts", legend, shown, *((rest,) if drawn[FIRST:] else ()), words=words)


def _sides(original: Markup) -> Markup:
    return _legend((tag("line", x1=1, x2=15, y1=8, y2=8, class_="line port"), "port"), (original, "original"))


def _legend(*marks: tuple[Markup, str]) -> Markup:
    items = [tag("li", tag("svg", mark, viewBox="0 0 16 16", aria_hidden="true"), words) for mark, words in marks]
    return tag("ul", *items, class_="legend")


def _figure(name: str, chart: Markup) -> Markup:
    return tag("figure", tag("figcaption", name), chart)


# ------------------------------------------------------------------------------ checks


def _checks(document: Mapping[str, Any]) -> Markup:
    levels: Iterable[Mapping[str, Any]] = document["levels"]
    words = "Gauges reach from a hundredth of the limit to a hundred times; the line across is the interval."
    return _section("All checks", *(_level(level) for level in levels), words=words)


def _level(level: Mapping[str, Any]) -> Markup:
    words = tag("p", ABOUT.get(level["name"], ""))
    title = _badge(level["status"], f"{level['name']}: {_count(level)}")
    return _more(title, words, check_table(level["checks"]))


def _more(title: str, *children: str) -> Markup:
    """What is shown when it is asked for."""
    return tag("details", tag("summary", title), *children)
