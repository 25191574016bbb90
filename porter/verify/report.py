"""What a comparison found: checks in levels, a verdict, and the numbers that others rely on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["pass", "fail", "inconclusive"]
CheckStatus = Status | Literal["measured"]
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Measured:
    """What was measured of port and original, each with its standard error over prompts; and the interval of the ratio,
    where that is judged.
    """

    port: float
    port_error: float
    original: float
    original_error: float
    interval: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Numbers, or their names where JSON has none."""
        return {
            "port": _named(self.port),
            "port_standard_error": _named(self.port_error),
            "original": _named(self.original),
            "original_standard_error": _named(self.original_error),
            "interval": [_named(end) for end in self.interval] if self.interval else None,
        }


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was measured, what is allowed, and what came of it.

    What is only told has no limit; its status is `measured`, and no level passes by it.
    """

    name: str
    value: float | int
    limit: float | int | None
    status: CheckStatus
    detail: str = ""
    measured: Measured | None = None

    @classmethod
    def at_most(cls, name: str, value: float | int, limit: float | int, detail: str = "") -> Check:
        """Passes while the value is a number within the limit."""
        good = math.isfinite(value) and value <= limit
        return cls(name, value, limit, "pass" if good else "fail", detail)

    def to_json(self) -> dict[str, Any]:
        """JSON has no infinities: a value that is no number becomes its name."""
        found = {"name": self.name, "value": _named(self.value), "limit": self.limit, "status": self.status}
        return {**found, "detail": self.detail, **(self.measured.to_json() if self.measured else {})}


@dataclass(frozen=True)
class ErrorAt:
    """The root mean square error at one place, port beside original, both against float64: where it was worst.

    `quantity` is one of logits, layers, router, cache and, where a fault was looked for, the name of a block.
    """

    level: str
    scenario: str
    quantity: str
    place: str  # the cache entry "3.key", the layer "3", or nothing
    layer: int | None
    port: float
    original: float
    ratio: float
    limit: float | None

    def to_json(self) -> dict[str, Any]:
        """Numbers, or their names where JSON has none."""
        numbers = {name: _named(getattr(self, name)) for name in ("port", "original", "ratio")}
        return {**vars(self), **numbers}


@dataclass(frozen=True)
class ExpertLoad:
    """How many tokens each expert of a layer was given: [experts] of the port, and of the original at its dtype."""

    layer: int
    port: tuple[int, ...]
    original: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Counts."""
        return {"layer": self.layer, "port": list(self.port), "original": list(self.original)}


@dataclass(frozen=True)
class DivergenceAt:
    """Mean KL in nats around a position of texts that were decoded token by token, port beside original, both against
    float64.
    """

    scenario: str
    position: int
    port: float
    original: float

    def to_json(self) -> dict[str, Any]:
        """Numbers, or their names where JSON has none."""
        return {**vars(self), "port": _named(self.port), "original": _named(self.original)}


@dataclass(frozen=True)
class Figures:
    """What a chart is drawn of."""

    errors: tuple[ErrorAt, ...] = ()
    experts: tuple[ExpertLoad, ...] = ()
    positions: tuple[DivergenceAt, ...] = ()

    def __add__(self, other: Figures) -> Figures:
        return Figures(self.errors + other.errors, self.experts + other.experts, self.positions + other.positions)

    def to_json(self) -> dict[str, Any]:
        """A list of each kind."""
        return {name: [entry.to_json() for entry in entries] for name, entries in vars(self).items()}


@dataclass(frozen=True)
class Level:
    """The checks of one level, and what its charts are drawn of."""

    name: str
    checks: tuple[Check, ...]
    figures: Figures = Figures()

    @property
    def status(self) -> Status:
        """Fails with any check that failed; without one, what could not be decided is not passed."""
        return worst([c.status for c in self.checks if c.status != "measured"])

    @property
    def open(self) -> bool:
        """Whether more prompts could decide the level."""
        undecided = [c for c in self.checks if c.status == "inconclusive" and c.measured is not None]
        return self.status == "inconclusive" and bool(undecided)


@dataclass(frozen=True)
class Located:
    """Where the first fault is: the block that, given what the original has, is itself off by more than it may be.

    `quantity` says what was compared at its `value`: values, a rotation, a cache or the entry that goes into it; or a
    mask or a choice of experts, where `ratio` counts those that are others. Outside of layers there is no layer; where
    no block shows the fault by itself, only the layer is named.
    """

    scenario: str
    quantity: str
    layer: int | None
    block: str | None  # by the module's name within its layer
    value: str | None  # as the graph calls it
    ratio: float
    limit: float
    graph: str | None  # the file
    folder: str | None = None  # where it was saved to be run alone

    def to_json(self) -> dict[str, Any]:
        """A ratio that is no number becomes its name."""
        return {**vars(self), "ratio": _named(self.ratio)}


@dataclass(frozen=True)
class Asked:
    """The prompts of the levels that measure: where they came from, how many, and the SHA-256 of their token ids, each
    a little-endian 64-bit integer, prompt by prompt.
    """

    source: Literal["bundled", "file", "original"]
    count: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """As it is."""
        return dict(vars(self))


@dataclass(frozen=True)
class Closeness:
    """How near the port's logits are to the original's in float64, over everything that was compared."""

    greedy_match: bool
    max_abs_error: float
    cosine: float
    kl: float


@dataclass(frozen=True)
class ParityReport:
    """The verdict on a port."""

    port: str
    against: str
    target: str
    dtype: str
    levels: tuple[Level, ...]
    closeness: Closeness | None
    seconds: float
    notes: tuple[str, ...] = field(default=())
    prompts: Asked | None = None  # where none were asked
    slice: tuple[int, ...] | None = None  # the layers that were run, where not all were
    located: Located | None = None  # where semantics fails
    runtime: str | None = None  # what ran the port as it is deployed: "provider:NAME", or a program's command line
    versions: Mapping[str, str | None] = field(default_factory=dict)  # of what the verdict was made with
    port_sha256: str | None = None  # over all that the port consists of

    @property
    def status(self) -> Status:
        """The worst of the levels."""
        return worst([level.status for level in self.levels])

    @property
    def exit_code(self) -> int:
        """0 parity holds, 1 it fails, 3 it could not be decided."""
        return {"pass": 0, "fail": 1, "inconclusive": 3}[self.status]

    def to_json(self) -> dict[str, Any]:
        """The document that `porter verify --json` prints."""
        near = self.closeness
        return {
            "schema_version": SCHEMA_VERSION,
            "port": self.port,
            "against": self.against,
            "target": self.target,
            "dtype": self.dtype,
            "passed": self.status == "pass",
            "status": self.status,
            "levels": [
                {"name": lv.name, "status": lv.status, "checks": [c.to_json() for c in lv.checks]} for lv in self.levels
            ],
            "greedy_match": near.greedy_match if near else None,
            "max_abs_error": _number(near.max_abs_error) if near else None,
            "cosine": _number(near.cosine) if near else None,
            "kl": _number(near.kl) if near else None,
            "prompts": self.prompts.to_json() if self.prompts else None,
            "figures": sum((level.figures for level in self.levels), Figures()).to_json(),
            "located": self.located.to_json() if self.located else None,
            "notes": list(self.notes),
            "slice": None if self.slice is None else list(self.slice),
            "runtime": self.runtime,
            "recorded": None,
            "versions": dict(self.versions),
            "port_sha256": self.port_sha256,
            "seconds": round(self.seconds, 3),
        }


def worst(statuses: Sequence[Status]) -> Status:
    """Fail before inconclusive before pass; nothing looked at is inconclusive."""
    order: tuple[Status, ...] = ("fail", "inconclusive")
    return next((s for s in order if s in statuses), "pass" if statuses else "inconclusive")


def _named(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
