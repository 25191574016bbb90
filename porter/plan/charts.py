"""Charts in HTML and inline SVG, without a script: bars that a narrow screen has room for, lines on logarithmic axes.

All text is escaped; colours are the page's variables, so that light and dark are its matter alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, BELOW, ABOVE, RIGHT = 640, 320, 64, 44, 12, 16
COLOURS = 6


@dataclass(frozen=True)
class Bar:
    """One row: stacked pieces of (class of colour, length), and the words at its end."""

    label: str
    pieces: tuple[tuple[int, float], ...]
    words: str


@dataclass(frozen=True)
class Series:
    """One line: points (x, y), both above zero."""

    name: str
    points: tuple[tuple[float, float], ...]


def bars(title: str, rows: Sequence[Bar], legend: Sequence[str] = ()) -> str:
    """Horizontal bars, the longest across the whole width."""
    longest = max((sum(length for _, length in row.pieces) for row in rows), default=0.0) or 1.0
    lines = []
    for row in rows:
        pieces = "".join(
            f'<i class="c{colour % COLOURS}" style="width:{100 * length / longest:.2f}%"></i>'
            for colour, length in row.pieces
        )
        lines.append(
            f'<div class="bar"><span>{escape(row.label)}</span><b>{pieces}</b><em>{escape(row.words)}</em></div>'
        )
    return f"<figure><figcaption>{escape(title)}</figcaption>{_legend(legend)}{''.join(lines)}</figure>"


def lines(title: str, series: Sequence[Series], x_axis: str, y_axis: str) -> str:
    """Lines with a dot at each point, on logarithmic axes; nothing where there is no point."""
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    across = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT)
    up = _Axis([y for _, y in points], HEIGHT - BELOW, ABOVE)
    body = [*_grid(across, up), *(_line(n, one, across, up) for n, one in enumerate(series))]
    middle = (LEFT + WIDTH - RIGHT) / 2
    body.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_axis)}</text>')
    view = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"'
    caption = f"<figcaption>{escape(title)}: {escape(y_axis)}</figcaption>"
    legend = _legend([one.name for one in series])
    return f'<figure>{caption}{legend}<div class="wide"><svg {view}>{"".join(body)}</svg></div></figure>'


def _legend(names: Sequence[str]) -> str:
    words = "".join(f'<span><i class="c{n % COLOURS}"></i>{escape(name)}</span>' for n, name in enumerate(names))
    return f'<p class="legend">{words}</p>' if names else ""


class _Axis:
    """A logarithmic axis from `start` to `end` in the picture."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.low, self.high = math.log10(min(values)), math.log10(max(values))
        if self.high - self.low < 0.1:
            self.low, self.high = self.low - 0.5, self.high + 0.5
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten, or the powers alone where these would be too many."""
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = (1, 2, 5) if self.high - self.low < 3 else (1,)
        every = [step * 10.0**power for power in powers for step in steps]
        return [value for value in every if self.low - 1e-9 <= math.log10(value) <= self.high + 1e-9]


def _grid(across: _Axis, up: _Axis) -> list[str]:
    found = []
    for x in across.ticks():
        at = f"{across.at(x):.1f}"
        found.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{ABOVE}" y2="{HEIGHT - BELOW}"/>')
        found.append(f'<text x="{at}" y="{HEIGHT - BELOW + 16}" text-anchor="middle">{short(x)}</text>')
    for y in up.ticks():
        at = f"{up.at(y):.1f}"
        found.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        found.append(f'<text x="{LEFT - 6}" y="{at}" dy="4" text-anchor="end">{short(y)}</text>')
    return found


def _line(n: int, series: Series, across: _Axis, up: _Axis) -> str:
    places = [(across.at(x), up.at(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(series.name)}: {short(a)}, {short(b)}</title></circle>'
        for (x, y), (a, b) in zip(places, series.points, strict=True)
    )
    return f'<g class="c{n % COLOURS}"><polyline points="{path}"/>{dots}</g>'


def short(value: float) -> str:
    """A number as an axis has it: 4.1k, 128k, 2M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"
