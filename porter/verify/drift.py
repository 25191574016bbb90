"""Whether a port drifts: given texts are decoded token by token, and its errors are held against position.

An error that is made anew at each token is as large at the end as in the beginning. One that the cache carries along,
or one in the angles of the rotation, grows: its size may still hide in the rounding of the dtype, its growth does not.

Port and original choose their experts freely and float64 follows each, as for prompts; the choice is judged there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from porter.manifest import Port
from porter.model import Model
from porter.verify import findings
from porter.verify.benchmark import Parties
from porter.verify.decoding import Decoded, at_once, decode_original, decode_port
from porter.verify.intervals import Pair, Sides, Statistic, judge, mean, root_mean, worst_of
from porter.verify.logits import divergence
from porter.verify.paths import Path, paths_of, texts_of
from porter.verify.prompts import Prompts
from porter.verify.report import Check, DivergenceAt, ErrorAt, Figures, Level
from porter.verify.scenarios import Call, Scenario, placed
from porter.verify.slope import judge_slope

NARROW_LIMIT = 2.0  # times the original's own error: a stretch of positions is rougher than all of them together
# Of the slope. What adds up slowest are errors of random sign, by the root of the position; the divergence that they
# make grows by the position itself, with slope 1. Half of that decides.
SLOPE_LIMIT = 0.5
FLOOR = 2.0**-50  # of divergences: the rounding of float64 in the sum
KEPT = 2**29  # bytes that the logits of texts which are decoded together may take in float64
POINTS = 4  # with fewer stretches no line is drawn


@dataclass
class Readings:
    """What was measured along one path, by text and token [texts, S]; of logits and cache the errors' mean squares."""

    divergence: Sides = field(default_factory=Sides)
    logits: Sides = field(default_factory=Sides)
    cache: dict[str, Sides] = field(default_factory=lambda: defaultdict(Sides))
    sizes: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # mean squares of what is compared


class Drift:
    """Port and original, both at the dtype that is deployed, led along the same paths."""

    def __init__(self, port: Port, model: Model, steps: int, parties: Parties) -> None:
        self._paths = paths_of(port, model, steps)
        self._parties = parties
        self._stepwise = model.network.model.rotary_emb.unbounded
        self._placed = port.context is not None and model.network.window() is not None
        self._found: dict[str, Readings] = defaultdict(Readings)

    @np.errstate(all="ignore")  # what overflows is found, not warned of
    def add(self, prompts: Prompts) -> None:
        """Decodes texts made of these prompts on all sides. Raises BrokenPort where the port stops."""
        for path in self._paths:
            ids = texts_of(prompts, len(path.positions))
            together = max(KEPT // (8 * self._parties.exact.vocabulary * ids.shape[1]), 1)  # a call costs most of all
            for start in range(0, len(ids), together):
                calls = path.calls(ids[start : start + together])
                self._decode(path, placed(Scenario(path.name, calls)).calls if self._placed else calls)

    def _decode(self, path: Path, calls: Sequence[Call]) -> None:
        parties = self._parties
        ported = decode_port(parties.port, calls)
        entries = list(ported.cache)
        rough = decode_original(parties.own, calls, entries, parties.to_entries, {})
        exactly = calls if self._stepwise else at_once(calls)
        followed = (ported, rough) if ported.routes else (ported,)
        exact = [decode_original(parties.exact, exactly, entries, parties.to_entries, side.routes) for side in followed]
        _read(self._found[path.name], (ported, rough), (exact[0], exact[-1]))

    def added_to(self, level: Level, dtype: str) -> Level:
        """The level with the checks of all paths, and with what is drawn of them."""
        checks, figures = list(level.checks), level.figures
        for path in self._paths:
            found = list(_judge(path, self._found[path.name], dtype))
            checks += _folded(path, found)
            if len(path.cuts) > POINTS:
                checks.append(_slope(path, self._found[path.name]))
            figures += Figures(
                errors=tuple(_error(path, place) for place in found if place.quantity != "KL"),
                positions=tuple(
                    DivergenceAt(path.name, place.position, *place.sides()) for place in found if place.quantity == "KL"
                ),
            )
        return replace(level, checks=tuple(checks), figures=figures)


def _read(into: Readings, sides: Sequence[Decoded], exact: Sequence[Decoded]) -> None:
    pairs = list(zip(sides, exact, strict=True))
    into.divergence.add(*(_by_text(divergence, mine.logits, right.logits) for mine, right in pairs))
    into.logits.add(*(_by_text(_square, mine.logits, right.logits) for mine, right in pairs))
    into.sizes["logits"].append(float(np.mean(exact[1].logits ** 2)))
    for name in sides[0].cache:
        entries = [[side.cache[name].swapaxes(1, 2) for side in pair] for pair in pairs]  # [B, S, heads, width]
        into.cache[name].add(*(_by_text(_square, mine, right) for mine, right in entries))
        into.sizes[name].append(float(np.mean(exact[1].cache[name] ** 2)))


def _by_text(
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray], mine: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Of each token, one text after the other, for they may fill the memory: [B, S]."""
    return np.stack([measure(text, exact) for text, exact in zip(mine, right, strict=True)])


def _square(values: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The mean square of the error of each token [S, ...]."""
    return np.asarray(((values.astype(np.float64) - exact) ** 2).reshape(len(values), -1).mean(axis=1))


@dataclass(frozen=True)
class Place:
    """A quantity over a stretch of tokens, judged. `entry` is the cache's, `position` that in the stretch's middle."""

    quantity: str
    entry: str
    position: int
    check: Check

    def name(self) -> str:
        """The cache entry and the position."""
        return f"{self.entry}@{self.position}"

    def sides(self) -> tuple[float, float]:
        """Port and original, where there are numbers."""
        measured = self.check.measured
        return (measured.port, measured.original) if measured else (float(self.check.value), np.nan)


def _judge(path: Path, found: Readings, dtype: str) -> Iterator[Place]:
    """Every quantity at every place and stretch; of the cache the opening's, too."""
    error = findings.LIMIT if dtype == "float32" else NARROW_LIMIT
    late, whole = list(path.stretches()), list(path.stretches(opened=True))
    yield from _places("KL", "", found.divergence, mean, error**2, FLOOR, late)
    yield from _places("logits", "", found.logits, root_mean, error, _floor(found, "logits"), late)
    for entry, sides in found.cache.items():
        yield from _places("cache", entry, sides, root_mean, error, _floor(found, entry), whole)


def _places(
    quantity: str,
    entry: str,
    sides: Sides,
    statistic: Statistic,
    limit: float,
    floor: float,
    stretches: Sequence[tuple[int, slice]],
) -> Iterator[Place]:
    pair = sides.pair()
    for position, tokens in stretches:
        here = Pair(pair.port[:, tokens], pair.own[:, tokens])
        yield Place(quantity, entry, position, judge(quantity, here, statistic, limit, floor))


def _floor(found: Readings, name: str) -> float:
    """Below the rounding of float32 nothing counts."""
    return findings.FLOOR * float(np.sqrt(np.mean(found.sizes[name])))


def _folded(path: Path, found: Sequence[Place]) -> list[Check]:
    """One check for each quantity, at the place where it is worst."""
    checks = []
    for quantity in dict.fromkeys(place.quantity for place in found):
        worst = worst_of({place.name(): place.check for place in found if place.quantity == quantity})
        checks.append(replace(worst, name=f"{path.name}: {quantity}"))
    return checks


@np.errstate(all="ignore")  # what overflows is found, not warned of
def _slope(path: Path, found: Readings) -> Check:
    """How the divergence grows from stretch to stretch. Its logarithms are averaged: a single token may diverge a
    hundred times as much as the next one.
    """
    pair, (positions, tokens) = found.divergence.pair(), zip(*path.stretches(), strict=True)
    logs = [np.log(side + FLOOR) for side in (pair.port, pair.own)]
    port, own = (np.stack([side[:, here].mean(axis=1) for here in tokens], axis=1) for side in logs)
    return judge_slope(f"{path.name}: KL slope", Pair(port, own), np.array(positions), SLOPE_LIMIT)


def _error(path: Path, place: Place) -> ErrorAt:
    layer = int(place.entry.partition(".")[0]) if place.entry else None
    port, own = place.sides()
    ratio, limit = float(place.check.value), place.check.limit
    return ErrorAt("distribution", path.name, place.quantity, place.name(), layer, port, own, ratio, limit)
