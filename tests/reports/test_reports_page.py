"""The page: everything of the verdict is in it, nothing of it is fetched, and names stay names."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from verdicts import EVERY, HOSTILE, failed, hostile, passed, report

from porter.reports import charts
from porter.reports.chart import Axis, every, log_axis
from porter.reports.html import to_html
from porter.reports.markup import VOID, joined, tag
from porter.verify.report import ErrorAt, ExpertLoad, Figures, Level

POSITIONS = [{"scenario": "decode", "position": n, "port": 2e-6, "original": 1e-6} for n in range(4)]


class Page(HTMLParser):
    """Elements with their attributes, the text outside the style, and whether every element was closed."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(data.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def classes(self, element: str) -> list[str]:
        return [str(attributes.get("class")) for name, attributes in self.elements if name == element]


@pytest.mark.parametrize("name", EVERY)
def test_the_page_is_whole_and_fetches_nothing(name: str) -> None:
    data = to_html(EVERY[name]().to_json())
    page = Page(data)
    assert page.open == []
    names = {element for element, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "base", "a", "use", "image"}
    attributes = {attribute for _, given in page.elements for attribute in given}
    assert not {a for a in attributes if a.startswith("on") or a in {"src", "href", "style", "xlink:href"}}
    assert not re.search(rb"url\(|@import|https?:", data)


def test_the_page_tells_the_verdict() -> None:
    text = Page(to_html(failed().to_json())).text
    assert "✕ parity fails" in text
    assert "weights: 1 of 1 not passed" in text
    assert "semantics: 2 of 3 not passed" in text
    assert "13.8, 9.17 times" in text  # what would have passed
    assert "no limit" in text
    assert "What did not pass" not in Page(to_html(passed().to_json())).text


def test_names_stay_names() -> None:
    data = to_html(hostile().to_json())
    page = Page(data)
    assert b"<script" not in data
    assert b"\x1b" not in data
    assert page.text.count('<script>alert("1")</script>') >= 6
    assert HOSTILE.isprintable() is False


def test_a_markup_is_escaped_once() -> None:
    assert (
        tag("p", "a < b", tag("b", '"&"'), data_x='"<') == '<p data-x="&quot;&lt;">a &lt; b<b>&quot;&amp;&quot;</b></p>'
    )
    assert joined("<", tag("i")) == "&lt;<i></i>"
    assert tag("p", class_=None) == "<p></p>"


# ------------------------------------------------------------------------------ charts


def test_each_chart_says_in_words_what_it_shows() -> None:
    document = failed().to_json()
    document["figures"]["positions"] = POSITIONS
    document["figures"]["experts"] = [{"layer": 1, "port": [3, 0], "original": [2, 1]}]
    charts_of = [given for name, given in Page(to_html(document)).elements if name == "svg" and "role" in given]
    labels = [str(given["aria-label"]) for given in charts_of]
    assert (
        "error of layers: 1 beyond: layer 1; the largest is 50000 times the original's, at layer 1, limit 10" in labels
    )
    assert (
        "error of cache key: all within their limits; the largest is 1 times the original's, at layer 0, limit 10"
        in labels
    )
    assert "KL by position, decode: largest of the port 2e-06 at 0; largest of the original 1e-06 at 0" in labels
    assert (
        "load of the experts of layer 1: 2 experts; most unlike is 0, 3 tokens of the port and 2 of the original"
        in labels
    )
    assert all(given["role"] == "img" for given in charts_of)


def test_sections_without_figures_are_left_out() -> None:
    text = Page(to_html(report(Level("weights", ())).to_json())).text
    assert not re.search("Error by layer|KL by position|Load of the experts", text)
    assert "KL by position" not in Page(to_html(passed().to_json() | {})).text  # no figures.positions


def test_many_layers_of_experts_are_folded() -> None:
    loads = tuple(ExpertLoad(n, tuple(range(256)), tuple(range(256))) for n in range(58))
    page = Page(to_html(report(Level("distribution", (), Figures(experts=loads))).to_json()))
    assert "50 more layers" in page.text
    assert page.classes("path").count("bars") == 58


def entry(port: float | str, ratio: float | str, limit: float | None = 10.0, original: float = 1e-7) -> dict[str, Any]:
    return ErrorAt("semantics", "prefill", "layers", "0", 0, 0.0, original, 0.0, limit).to_json() | {
        "port": port,
        "ratio": ratio,
    }


@pytest.mark.parametrize(
    ("given", "kind", "allowed"),
    [
        (entry(2e-7, 2.0), "port", 1e-6),
        (entry(2e-5, 200.0), "beyond", 1e-6),
        (entry(1e-9, 0.5, original=0.0), "port", 2e-8),  # the floor counts where the original has no error
        (entry("inf", "inf"), "none", 1e-6),
        (entry("nan", "nan"), "none", 1e-6),
        (entry(2e-7, "nan"), "beyond", 1e-6),
        (entry(0.0, 0.0), "port", 1e-6),
        (entry(2e-5, 200.0, limit=None), "port", 0.0),
    ],
)
def test_the_band_and_the_mark_of_an_error(given: dict[str, Any], kind: str, allowed: float) -> None:
    assert charts.kind_of(given) == kind
    assert charts.allowed(given) == pytest.approx(allowed)
    drawn = charts.error_chart("layers", [given])
    assert f'class="{kind}"' in drawn
    assert ('class="band"' in drawn) == (given["limit"] is not None)
    assert not re.search(r"nan|inf[^i]", drawn.split("</title>")[1])  # no coordinate is no number


def test_logits_stand_behind_the_last_layer() -> None:
    panels = charts.error_panels(passed().to_json()["figures"]["errors"])
    assert {name: len(found) for name, found in panels.items()} == {"layers": 3, "cache key": 2}


def test_along_positions_the_worst_layer_stands_for_all() -> None:
    found = [
        entry(1e-7 * ratio, ratio) | {"quantity": "cache", "place": f"{layer}.key@{position}", "layer": layer}
        for layer in range(2)
        for position, ratio in ((66, 1.0 + layer), (4, 2.0 - layer))
    ]
    found += [entry(1e-7, 1.0) | {"quantity": "logits", "place": f"@{position}", "layer": None} for position in (10, 4)]
    panels = charts.error_panels(found)
    assert {name: [e["place"] for e in panel] for name, panel in panels.items()} == {
        "cache key": ["0.key@4", "1.key@66"],
        "logits": ["@4", "@10"],
    }
    drawn = charts.error_chart("cache key", panels["cache key"])
    assert ">position<" in drawn
    assert "at layer 0, position 4" in drawn


def test_long_texts_are_thinned_to_the_largest() -> None:
    found = [{"position": n, "port": float(n % 7), "original": 1.0} for n in range(4000)]
    found[1234]["port"] = "inf"
    kept, words = charts.thinned(found)
    assert (len(kept), words) == (149, " (the largest of each 27)")
    assert [entry["position"] for entry in kept if entry["port"] == math.inf] == [1215]
    assert {entry["port"] for entry in kept} == {6.0, math.inf}


def test_an_axis_of_powers() -> None:
    axis = log_axis([1e-7, 2e-3, 0.0, math.inf], 100.0, 0.0)
    assert [label for _, label in axis.ticks()] == ["10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³"]
    assert axis.at(0.0) == 100.0
    assert axis.at(math.inf) == 0.0
    assert axis.at(1e-7) > axis.at(1e-3) > 0
    assert [label for _, label in Axis(1.2, 6, 0, 1, log=True).ticks()] == ["2", "5"]
    assert len(Axis(1e-300, 1.0, 0, 1, log=True).ticks()) <= 8


def test_labels_that_fit_side_by_side() -> None:
    assert every(range(7)) == list("0123456")
    assert [label for label in every(range(61)) if label] == ["0", "10", "20", "30", "40", "50", "60"]
    assert [label for label in every([58, 59, 60]) if label] == ["58", "59", "60"]
    assert [label for _, label in Axis(0, 4096, 0, 1).ticks()] == ["0", "2000", "4000"]


@pytest.mark.parametrize(("value", "limit"), [(0.5, None), (0, 0), ("nan", 10.0), (0.0, 2.0), (1e9, 2.0)])
def test_a_gauge_needs_a_limit(value: Any, limit: float | None) -> None:
    check = {"name": "x", "value": value, "limit": limit, "status": "fail"}
    assert bool(charts.gauge(check)) == bool(limit)
