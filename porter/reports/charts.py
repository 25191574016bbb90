"""The charts of a verdict: errors by layer within their bands, divergence by position, the load of experts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from porter.reports.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    bars,
    dot,
    drawing,
    every,
    frame,
    line,
    log_axis,
    stairs,
)
from porter.reports.document import number
from porter.reports.markup import Markup, joined, tag

BASE = HEIGHT - BOTTOM
NAME = 44.0  # the width of a column with a name below it
MOST = 150  # points of a line; of more, the largest of some that follow one another
SIDES = ("port", "original")
Entry = Mapping[str, Any]


def value(told: float | str | None) -> float:
    """A number of the document, which names those that JSON has not."""
    return math.nan if told is None else float(told)


# ------------------------------------------------------------------------------ errors


def error_panels(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The entries of one scenario by panel: each quantity, and each part of the cache. What belongs to no layer, such
    as the logits, stands behind the last layer's output. Along positions, the layer that is worst at each stands for
    all.
    """
    panels: dict[str, list[Entry]] = {}
    for entry in entries:
        part = entry["place"].partition("@")[0].partition(".")[2]
        panels.setdefault(f"{entry['quantity']} {part}".strip(), []).append(entry)
    panels = {name: _worst_along(found) for name, found in panels.items()}
    alone = [name for name, found in panels.items() if len(found) == 1 and place_of(found[0]) is None]
    if "layers" in panels:
        for name in alone:
            panels["layers"] = panels["layers"] + panels.pop(name)
    return panels


def _worst_along(entries: list[Entry]) -> list[Entry]:
    if not any("@" in entry["place"] for entry in entries):
        return entries
    by_position: dict[int, Entry] = {}
    for entry in entries:
        position = position_of(entry)
        if position is not None and (position not in by_position or _beyond(entry) > _beyond(by_position[position])):
            by_position[position] = entry
    return [by_position[position] for position in sorted(by_position)]


def _beyond(entry: Entry) -> float:
    ratio = value(entry["ratio"])
    return ratio if math.isfinite(ratio) else math.inf


def position_of(entry: Entry) -> int | None:
    """Where along a text an error was measured, if it was along one."""
    _, along, position = entry["place"].partition("@")
    return int(position) if along else None


def place_of(entry: Entry) -> int | None:
    """The number of its column: position or layer."""
    position, layer = position_of(entry), entry["layer"]
    return position if position is not None else None if layer is None else int(layer)


def error_chart(name: str, entries: Sequence[Entry]) -> Markup:
    """A column for each layer or position: the band that is allowed, the original's error in it, and the port's."""
    tops = [value(e["port"]) for e in entries] + [allowed(e) for e in entries]
    y = log_axis([*tops, *(value(e["original"]) for e in entries)], BASE, TOP)
    columns = _columns([place_of(e) is not None for e in entries])
    places = [x for x, _ in columns]
    marks = [_band(x, min(width * 0.42, 20.0), e, y) for (x, width), e in zip(columns, entries, strict=True)]
    numbered = [n for n, e in enumerate(entries) if place_of(e) is not None]
    path = [(places[n], y.at(_shown(entries[n], y))) for n in numbered]
    dots = [dot(x, y.at(_shown(e, y)), kind_of(e)) for x, e in zip(places, entries, strict=True)]
    numbers = every([place_of(entries[n]) or 0 for n in numbered])
    labels = [*numbers, *(e["quantity"] for e in entries if place_of(e) is None)]
    along = "position" if any("@" in e["place"] for e in entries) else "layer"
    axes = frame(list(zip(places, labels, strict=True)), y, along, "root mean square error")
    return drawing(f"error of {name}", error_words(entries), axes, *marks, line(path, "port"), *dots)


def _columns(of_layers: Sequence[bool]) -> list[tuple[float, float]]:
    """Middle and width of each: what is of no layer has room for its name, the layers share what is left."""
    room, alone = WIDTH - RIGHT - LEFT, of_layers.count(False)
    slot = NAME if any(of_layers) else room / alone
    share = (room - slot * alone) / max(len(of_layers) - alone, 1)
    widths = [share if layer else slot for layer in of_layers]
    return [(LEFT + sum(widths[:n]) + width / 2, width) for n, width in enumerate(widths)]


def _band(x: float, half: float, entry: Entry, y: Axis) -> Markup:
    own, top = value(entry["original"]), allowed(entry)
    band = tag("rect", x=x - half, width=2 * half, y=y.at(top), height=BASE - y.at(top), class_="band")
    edge = tag("line", x1=x - half, x2=x + half, y1=y.at(top), y2=y.at(top), class_="edge")
    mark = tag("line", x1=x - half, x2=x + half, y1=y.at(own), y2=y.at(own), class_="own")
    return joined(*((band, edge) if top > 0 else ()), *((mark,) if own >= 0 else ()))


def allowed(entry: Entry) -> float:
    """The error up to which the place passes; 0 where it has no limit. The original's own is not all of it: errors of
    the size of one rounding are as good as none, and the ratio knows.
    """
    port, own, ratio = (value(entry[name]) for name in ("port", "original", "ratio"))
    if entry["limit"] is None:
        return 0.0
    exact = math.isfinite(port) and math.isfinite(ratio) and ratio > 0
    return (port / ratio if exact else own) * float(entry["limit"])


def kind_of(entry: Entry) -> str:
    """Of the port's mark: within its limit, beyond, or no number."""
    if not math.isfinite(value(entry["port"])):
        return "none"
    return "beyond" if entry["limit"] is not None and not value(entry["ratio"]) <= entry["limit"] else "port"


def _shown(entry: Entry, y: Axis) -> float:
    """What is no number is drawn at the upper edge."""
    port = value(entry["port"])
    return port if math.isfinite(port) else y.high


def error_words(entries: Sequence[Entry]) -> str:
    """The chart in a sentence."""
    beyond = [_where(e) for e in entries if kind_of(e) != "port"]
    worst = max(entries, key=_beyond)
    limit = "" if worst["limit"] is None else f", limit {number(worst['limit'])}"
    told = f"{len(beyond)} beyond: {', '.join(beyond[:6])}" if beyond else "all within their limits"
    return f"{told}; the largest is {number(worst['ratio'])} times the original's, at {_where(worst)}{limit}"


def _where(entry: Entry) -> str:
    where = str(entry["quantity"]) if entry["layer"] is None else f"layer {entry['layer']}"
    position = position_of(entry)
    return where if position is None else f"{where}, position {position}"


# ------------------------------------------------------------------------------ positions


def position_chart(name: str, entries: Sequence[Entry]) -> Markup:
    """Divergence from float64 along a text, of the port and of the original."""
    entries, each = thinned(sorted(entries, key=lambda e: int(e["position"])))
    sides = {side: [(int(e["position"]), value(e[side])) for e in entries] for side in ("original", "port")}
    y = log_axis([v for points in sides.values() for _, v in points], BASE, TOP)
    x = Axis(entries[0]["position"], entries[-1]["position"], LEFT + 6, WIDTH - RIGHT - 6)
    marks = []
    for side, kind in (("original", "own"), ("port", "port")):
        marks.append(line([(x.at(place), y.at(v if math.isfinite(v) else y.high)) for place, v in sides[side]], kind))
    marks += [dot(x.at(place), y.at(y.high), "none") for place, v in sides["port"] if not math.isfinite(v)]
    words = "; ".join(
        f"largest of the {side} {number(v)} at {next(place for place, w in sides[side] if w is v)}"
        for side in SIDES
        for v in [_largest(v for _, v in sides[side])]
    )
    axes = frame([(x.at(v), label) for v, label in x.ticks()], y, "position" + each, "KL divergence")
    return drawing(f"KL by position, {name}", words, axes, *marks)


def thinned(entries: Sequence[Entry]) -> tuple[list[Entry], str]:
    """At most MOST points, and what each of them is."""
    size = -(-len(entries) // MOST)
    groups = [entries[n : n + size] for n in range(0, len(entries), size)]
    kept: list[Entry] = [
        {"position": group[0]["position"]} | {side: _largest(value(e[side]) for e in group) for side in SIDES}
        for group in groups
    ]
    return kept, "" if size == 1 else f" (the largest of each {size})"


def _largest(values: Iterable[float]) -> float:
    """What is no number is larger than any."""
    return max(values, key=lambda v: v if math.isfinite(v) else math.inf)


# ------------------------------------------------------------------------------ experts


def expert_chart(load: Entry) -> Markup:
    """Tokens of each expert of a layer: the original's as columns, the port's as a line along their tops."""
    port, own = load["port"], load["original"]
    y = Axis(0, max(*port, *own, 1), BASE, TOP)
    step = (WIDTH - RIGHT - LEFT) / len(port)
    lefts = [LEFT + step * n for n in range(len(port))]
    marks = [
        bars(lefts, [y.at(tokens) for tokens in own], BASE, step * (0.85 if step > 4 else 1.0)),
        stairs(lefts, [y.at(tokens) for tokens in port], step, "port"),
    ]
    labels = every(range(len(port)))
    axes = frame([(x + step / 2, label) for x, label in zip(lefts, labels, strict=True)], y, "expert", "tokens")
    return drawing(f"load of the experts of layer {load['layer']}", expert_words(load), axes, *marks)


def unlike(load: Entry) -> int:
    """The expert whose load differs most."""
    apart = [abs(a - b) for a, b in zip(load["port"], load["original"], strict=True)]
    return max(range(len(apart)), key=apart.__getitem__)


def expert_words(load: Entry) -> str:
    """The chart in a sentence."""
    most = unlike(load)
    port, own = load["port"][most], load["original"][most]
    if port == own:
        return f"{len(load['port'])} experts, the same load on both sides"
    return f"{len(load['port'])} experts; most unlike is {most}, {port} tokens of the port and {own} of the original"


# ------------------------------------------------------------------------------ checks


def gauge(check: Entry) -> Markup:
    """A value and its interval against its limit, from a hundredth of it to a hundred times; nothing without one."""
    found, limit = value(check["value"]), check["limit"]
    if not limit or found < 0:
        return Markup("")
    x = Axis(limit / 100, limit * 100, 4.0, 136.0, log=True)
    low, high = (value(end) for end in check.get("interval") or (found, found))
    marks = [
        tag("rect", x=x.start, width=x.at(limit) - x.start, y=3, height=12, class_="band"),
        tag("line", x1=x.at(limit), x2=x.at(limit), y1=1, y2=17, class_="edge"),
        tag("line", x1=x.at(_finite(low, x)), x2=x.at(_finite(high, x)), y1=9, y2=9, class_="span"),
        dot(x.at(_finite(found, x)), 9, {"pass": "port", "fail": "beyond"}.get(check["status"], "open")),
    ]
    words = f"{number(check['value'])} against a limit of {number(limit)}"
    return drawing(str(check["name"]), words, *marks, width=140, height=18)


def _finite(number: float, axis: Axis) -> float:
    return number if math.isfinite(number) else axis.high
