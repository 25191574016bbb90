"""The page in a true browser: in light and dark, narrow and wide, from the disk and without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, browser
from command import run
from verdicts import failed, hostile

from porter.reports.html import to_html

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all of them."""
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(deepseek: Path, deepseek_port: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A true verdict, one that fails with everything that a chart can show, and one full of markup."""
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in ("true", "failed", "hostile")}
    run("verify", deepseek_port, "--against", deepseek, "--tokens", 2, "--report", found["true"])
    document = failed().to_json()
    document["figures"]["positions"] = [
        {"scenario": "decode", "position": n, "port": 2e-6 * (n + 1), "original": 1e-6} for n in range(900)
    ]
    document["figures"]["errors"] += [
        {**entry, "scenario": "deep", "place": str(n), "layer": n}
        for entry in document["figures"]["errors"][:1]
        for n in range(61)
    ] + [document["figures"]["errors"][-1] | {"scenario": "deep"}]
    loads = [{"layer": n, "port": list(range(256)), "original": list(range(256, 0, -1))} for n in range(12)]
    document["figures"]["experts"] = loads
    found["failed"].write_bytes(to_html(document))
    found["hostile"].write_bytes(to_html(hostile().to_json()))
    return found


@pytest.mark.parametrize("unfold", [False, True], ids=["folded", "unfolded"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("name", ["true", "failed", "hostile"])
def test_the_page_is_quiet_and_fits(
    name: str, width: int, scheme: str, unfold: bool, pages: dict[str, Path], window: Browser
) -> None:
    seen = window.look_at(pages[name], width, scheme, unfold)
    assert seen.complaints == []
    assert seen.asked == [pages[name].as_uri()]
    assert seen.inner_width == width
    assert seen.scroll_width <= width
    assert seen.picture.startswith(b"\x89PNG")


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")])
def test_the_page_follows_the_scheme(scheme: str, ground: str, pages: dict[str, Path], window: Browser) -> None:
    window.look_at(pages["true"], 1280, scheme)
    assert window.value("getComputedStyle(document.body).backgroundColor") == ground


# The share of its background against which a text stands out, as WCAG 2 computes it, of every text on the page.
CONTRASTS = """
(() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
  };
  return [...document.querySelectorAll('h1,h2,h3,p,dt,dd,th,td,span,summary,figcaption,li,text')].map(element => {
    const style = getComputedStyle(element);
    const ink = element.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const [low, high] = [light(ink), light(ground(element))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  });
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_stands_out(scheme: str, pages: dict[str, Path], window: Browser) -> None:
    window.look_at(pages["failed"], 1280, scheme, unfold=True)
    contrasts = window.value(CONTRASTS)
    assert len(contrasts) > 100
    assert min(contrasts) >= 4.5


# Labels of one chart that overlap.
OVERLAPS = """
[...document.querySelectorAll('figure svg')].flatMap(chart => {
  const boxes = [...chart.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  return boxes.flatMap(([a, x], n) => boxes.slice(n + 1)
    .filter(([, y]) => x.left < y.right && y.left < x.right && x.top < y.bottom && y.top < x.bottom)
    .map(([b]) => `${a} over ${b}`));
})
"""


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["true", "failed"])
def test_no_label_lies_over_another(name: str, width: int, pages: dict[str, Path], window: Browser) -> None:
    window.look_at(pages[name], width, "light", unfold=True)
    assert window.value("document.querySelectorAll('figure svg text').length") > 30
    assert window.value(OVERLAPS) == []
