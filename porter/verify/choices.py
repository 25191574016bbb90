"""Choices of experts and of groups that are not the exact ones: ties that rounding decides, or mistakes.

A choice may differ where scores are so near one another that the original's own rounding could have changed it. So what
counts is the lead: by how much a score that was passed over exceeds one that was taken, in float64 on the same routes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from porter.verify.part import Trace


@dataclass
class Choice:
    """The largest lead that a port ever gave away, and the largest rounding of the original's own scores."""

    lead: float = 0.0
    noise: float = 0.0

    def add(self, lead: np.ndarray, own: np.ndarray, exact: np.ndarray) -> None:
        """Takes in more tokens: leads [tokens], scores [tokens, n] of the original at its dtype and in float64."""
        both = np.isfinite(own) & np.isfinite(exact)  # experts outside the chosen groups may be at minus infinity
        self.lead = max(self.lead, float(lead.max()))
        self.noise = max(self.noise, float(np.abs(np.where(both, own, 0) - np.where(both, exact, 0)).max()))

    def ratio(self) -> float:
        """The lead over the noise."""
        return self.lead / self.noise if self.noise else (np.inf if self.lead else 0.0)


@dataclass
class Choices:
    """Of each layer with a router, and of its groups where experts are grouped."""

    places: dict[str, Choice] = field(default_factory=lambda: defaultdict(Choice))

    def add(self, routes: Mapping[int, np.ndarray], for_port: Trace, own: Trace, for_own: Trace) -> None:
        """Takes in a call: the port's routes, the exact scores on these routes, and the original's own with theirs."""
        for layer, chosen in routes.items():
            scores = for_port.choice[layer]
            self.places[f"layer {layer}"].add(expert_lead(scores, chosen), own.choice[layer], for_own.choice[layer])
            if layer in for_port.group_scores:
                groups, kept = for_port.group_scores[layer]
                used = chosen // (scores.shape[1] // groups.shape[1])
                pair = own.group_scores[layer][0], for_own.group_scores[layer][0]
                self.places[f"groups of layer {layer}"].add(group_lead(groups, used, kept), *pair)

    def worst(self) -> tuple[float, str]:
        """The largest lead over its noise, and where."""
        ratios = {place: choice.ratio() for place, choice in self.places.items()}
        place = max(ratios, key=ratios.__getitem__)
        return ratios[place], place


def expert_lead(scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """By how much the best expert left out leads over the worst of those chosen [tokens, K]: [tokens], at least 0.

    Scores [tokens, E] are minus infinity, or as low as no other, outside the groups of those chosen.
    """
    taken = np.zeros(scores.shape, bool)
    np.put_along_axis(taken, chosen, True, axis=-1)
    best, worst = np.where(taken, -np.inf, scores).max(axis=-1), np.where(taken, scores, np.inf).min(axis=-1)
    with np.errstate(invalid="ignore"):  # minus infinity over minus infinity leads by nothing
        return np.fmax(best - worst, 0.0)


def group_lead(scores: np.ndarray, used: np.ndarray, kept: int) -> np.ndarray:
    """By how much the last of the `kept` best groups leads over the worst that was `used` [tokens, K]: [tokens]."""
    last = -np.sort(-scores, axis=-1)[:, kept - 1]
    return np.maximum(last - np.take_along_axis(scores, used, axis=-1).min(axis=-1), 0.0)
