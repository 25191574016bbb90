"""Charts as SVG that is part of a page: axes, marks, and words for who does not see them. Colours are the page's, by
class; each kind of mark has a shape of its own as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from porter.reports.markup import Markup, joined, tag

WIDTH, HEIGHT = 360.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 60.0, 8.0, 10.0, 36.0
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TICKS = 7  # so many labels stand side by side


@dataclass(frozen=True)
class Axis:
    """From a `low` value, drawn at `start`, to a `high` one at `end`; by powers of ten where it is logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value is drawn; what lies outside, at the end that is nearer."""
        low, high, value = (_log(v) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Values with their labels."""
        return _decades(self.low, self.high) if self.log else _steps(self.low, self.high)


def _log(value: float) -> float:
    return math.log10(value) if value > 0 else -400.0


def log_axis(values: Iterable[float], start: float, end: float) -> Axis:
    """Around those values that have a place on it."""
    seen = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    return Axis(min(seen) / 1.6, max(seen) * 1.6, start, end, log=True)


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    """Powers of ten; where there is none or one, also what lies between."""
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    if last - first >= 1:
        step = 1 + (last - first) // TICKS
        return [(10.0**power, _label(1, power)) for power in range(first, last + 1, step)]
    between = [(factor, power) for power in range(first - 1, last + 1) for factor in (1, 2, 5)]
    return [(f * 10.0**p, _label(f, p)) for f, p in between if low <= f * 10.0**p <= high]


def _label(factor: int, power: int) -> str:
    """Of a factor times a power of ten."""
    if 0 <= power <= 3:
        return str(factor * 10**power)
    written = f"10{str(power).translate(SUPERSCRIPTS)}"
    return written if factor == 1 else f"{factor}·{written}"


def _steps(low: float, high: float) -> list[tuple[float, str]]:
    """Whole numbers, not too many."""
    rough = max((high - low) / 4, 1)
    step = next(s for s in _round() if s >= rough)
    first = math.ceil(low / step) * step
    return [(value, f"{value:g}") for value in (first + step * n for n in range(10)) if value <= high]


def frame(x: Sequence[tuple[float, str]], y: Axis, x_name: str, y_name: str) -> Markup:
    """Lines across at the ticks of y, labels below at the places x, and the names of both."""
    lines = [
        joined(
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y.at(value), y2=y.at(value), class_="rule"),
            tag("text", label, x=LEFT - 5, y=y.at(value) + 3.5, text_anchor="end"),
        )
        for value, label in y.ticks()
    ]
    base = HEIGHT - BOTTOM
    labels = [tag("text", label, x=place, y=base + 14, text_anchor=_anchor(place)) for place, label in x if label]
    names = (
        tag("text", x_name, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 5, text_anchor="middle", class_="name"),
        tag(
            "text",
            y_name,
            transform=f"translate(10 {(TOP + base) / 2:g}) rotate(-90)",
            text_anchor="middle",
            class_="name",
        ),
    )
    return joined(*lines, tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=base, y2=base, class_="axis"), *labels, *names)


def _anchor(x: float) -> str:
    """A label at the right edge ends there."""
    return "end" if x > WIDTH - 20 else "middle"


def drawing(title: str, words: str, *marks: str, width: float = WIDTH, height: float = HEIGHT) -> Markup:
    """The whole of a chart, with a name and a text in place of it."""
    return tag(
        "svg",
        tag("title", title),
        *marks,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=f"{title}: {words}",
    )


def dot(x: float, y: float, kind: str) -> Markup:
    """A mark of the port: a disc; a triangle where it is beyond its limit; a cross where it is no number."""
    if kind == "beyond":
        return tag("path", d=f"M{x:.1f} {y - 5:.1f}l5 8.5h-10z", class_=kind)
    if kind == "none":
        return tag("path", d=f"M{x - 4:.1f} {y - 4:.1f}l8 8m0-8l-8 8", class_=kind)
    return tag("circle", cx=x, cy=y, r=2.8, class_=kind)


def line(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    """Through all points."""
    return tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=f"line {kind}")


def bars(lefts: Sequence[float], tops: Sequence[float], base: float, width: float) -> Markup:
    """Columns from their tops down to the base, as one path: there may be hundreds."""
    d = "".join(f"M{x:.1f} {base:.1f}V{top:.1f}h{width:.2f}V{base:.1f}z" for x, top in zip(lefts, tops, strict=True))
    return tag("path", d=d, class_="bars")


def stairs(lefts: Sequence[float], tops: Sequence[float], width: float, kind: str) -> Markup:
    """A line along the tops of columns."""
    d = "".join(f"V{top:.1f}H{x + width:.1f}" for x, top in zip(lefts, tops, strict=True))
    return tag("path", d=f"M{lefts[0]:.1f} {tops[0]:.1f}{d}", class_=f"line {kind}")


def every(numbers: Sequence[int]) -> list[str]:
    """Labels for those numbers that are round, so few that they fit side by side; the others have none."""
    step = next(s for s in _round() if len(numbers) <= TICKS * s)
    return [str(number) if number % step == 0 else "" for number in numbers]


def _round() -> Iterator[int]:
    return (factor * 10**power for power in count() for factor in (1, 2, 5))
