"""What was compared in a story: squared errors at every place, routes that changed, and the checks made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from porter.verify.report import Check, ErrorAt

if TYPE_CHECKING:
    from porter.verify.part import Trace

LIMIT = 10.0  # times the original's own float32 error
FLOOR = 2.0**-24  # of the size of what is compared: half a unit in the last place of float32
TIE = 2.0  # a choice may flip where its margin is within this many times the original's own noise


@dataclass
class Comparison:
    """Squared errors of one quantity over a scenario: the port's, the original's own, and its size."""

    port: float = 0.0
    own: float = 0.0
    size: float = 0.0
    count: int = 0

    def add(self, port: np.ndarray, own: np.ndarray, reference: np.ndarray) -> None:
        """Takes in more values; port and own are the float32 results, reference the float64 one."""
        wide = reference.astype(np.float64)
        self.port += float(np.sum((port.astype(np.float64) - wide) ** 2))
        self.own += float(np.sum((own.astype(np.float64) - wide) ** 2))
        self.size += float(np.sum(wide**2))
        self.count += wide.size

    def ratio(self) -> float:
        """The port's error over the original's own, both as root mean squares, above the floor of float32 itself."""
        if self.port == 0:
            return 0.0
        floor = FLOOR * np.sqrt(self.size / max(self.count, 1))
        return float(np.sqrt(self.port / max(self.count, 1)) / (np.sqrt(self.own / max(self.count, 1)) + floor))

    def at(self, story: str, quantity: str, place: str) -> ErrorAt:
        """What was compared, for a chart."""
        layer = re.match(r"\d+", place)  # a layer's number, or a cache entry's name, which begins with one
        port, own = (float(np.sqrt(total / max(self.count, 1))) for total in (self.port, self.own))
        return ErrorAt(
            "semantics", story, quantity, place, int(layer[0]) if layer else None, port, own, self.ratio(), LIMIT
        )

    def measurable(self) -> bool:
        """Whether the original gave numbers at all."""
        return bool(np.isfinite(self.own) and np.isfinite(self.size) and self.count)


@dataclass
class Findings:
    """All that was compared in a scenario: quantity → place (layer or cache entry) → comparison, and routes."""

    quantities: dict[str, dict[str, Comparison]] = field(default_factory=dict)
    flips: list[str] = field(default_factory=list)
    ties: int = 0

    def at(self, quantity: str, place: object) -> Comparison:
        """The comparison of a quantity at a place."""
        return self.quantities.setdefault(quantity, {}).setdefault(str(place), Comparison())


def compare_routes(
    findings: Findings, real: np.ndarray, reference: Trace, baseline: Trace, routes: Mapping[int, np.ndarray]
) -> None:
    """Each router's own choice from the same inputs, against the float64 original's."""
    for layer, chosen in reference.routes.items():
        tied = near_tie(reference, baseline, layer, chosen.shape[1])
        for token in np.flatnonzero(real):
            mine, theirs = set(routes[layer][token].tolist()), set(chosen[token].tolist())
            if mine == theirs:
                continue
            if tied[token]:
                findings.ties += 1
            else:
                swapped = f"{sorted(mine - theirs)} for {sorted(theirs - mine)}"
                findings.flips.append(f"layer {layer}, token {token}: {swapped}")


def near_tie(reference: Trace, baseline: Trace, layer: int, top_k: int) -> np.ndarray:
    """Tokens [B * S] whose choice of experts, or of groups, the original's own rounding could have changed."""
    tied = within_noise(reference.choice[layer], baseline.choice[layer], top_k)
    if layer in reference.group_scores:
        scores, top_groups = reference.group_scores[layer]
        tied |= within_noise(scores, baseline.group_scores[layer][0], top_groups)
    return tied


def within_noise(exact: np.ndarray, own: np.ndarray, top_k: int) -> np.ndarray:
    """Rows [rows, n] whose top_k-th and next best scores are no further apart than TIE times the largest rounding."""
    both = np.isfinite(exact) & np.isfinite(own)
    noise = float(np.abs(np.where(both, exact, 0) - np.where(both, own, 0)).max())
    ordered = -np.sort(-exact, axis=-1)
    if ordered.shape[-1] <= top_k:
        return np.zeros(len(exact), bool)
    return np.asarray(ordered[:, top_k - 1] - ordered[:, top_k] <= TIE * noise)


def checks_of(scenario: str, findings: Findings) -> list[Check]:
    """One for each quantity, at the place where it is worst; and one of all choices of experts."""
    checks = [ratio_check(f"{scenario}: {name}", places) for name, places in findings.quantities.items()]
    if "router" in findings.quantities:
        detail = "; ".join(findings.flips[:3]) or (f"{findings.ties} near-ties" if findings.ties else "")
        checks.append(Check.at_most(f"{scenario}: routes changed", len(findings.flips), 0, detail))
    return checks


def ratio_check(name: str, places: Mapping[str, Comparison]) -> Check:
    """The worst place counts; one where the original gave no numbers decides nothing."""
    if not all(c.measurable() for c in places.values()):
        return Check(name, 0.0, LIMIT, "inconclusive", "the original gives values that are not finite")
    ratios = {place: c.ratio() for place, c in places.items()}
    worst = max(ratios, key=lambda place: ratios[place] if np.isfinite(ratios[place]) else np.inf)
    return Check.at_most(name, ratios[worst], LIMIT, f"worst at {worst}" if worst else "")
