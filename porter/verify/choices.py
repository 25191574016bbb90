"""Choices of experts and of groups that are not the exact ones: ties that rounding decides, or mistakes.

A choice may differ where scores are so near one another that the original's own rounding could have changed it. So what
counts is the lead: by how much a score that was passed over exceeds one that was taken, in float64 on the same routes.
Float64 has followed the port as far as that layer, so each choice is judged as if it were the first that differs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from porter.verify.findings import TIE
from porter.verify.part import Trace
from porter.verify.report import Check


@dataclass
class Choice:
    """The largest lead that a port ever gave away, what it took for what then, and the largest rounding of the
    original's own scores.
    """

    lead: float = 0.0
    noise: float = 0.0
    prompt: int = 0
    token: int = 0
    taken: int = 0
    passed: int = 0

    def add(self, leads: Leads, own: np.ndarray, exact: np.ndarray, first: int = 0, length: int = 1) -> None:
        """Takes in more tokens, of prompts of a `length` each, beginning with the `first`: scores [tokens, n] of the
        original at its dtype and in float64.
        """
        both = np.isfinite(own) & np.isfinite(exact)  # experts outside the chosen groups may be at minus infinity
        self.noise = max(self.noise, float(np.abs(np.where(both, own, 0) - np.where(both, exact, 0)).max()))
        row = int(leads.lead.argmax())
        if leads.lead[row] > self.lead:
            self.lead = float(leads.lead[row])
            self.prompt, self.token = first + row // length, row % length
            self.taken, self.passed = int(leads.taken[row]), int(leads.passed[row])

    def ratio(self) -> float:
        """The lead over the noise."""
        return self.lead / self.noise if self.noise else (np.inf if self.lead else 0.0)

    def told(self) -> str:
        """What was chosen where, in words."""
        if not self.lead:
            return ""
        where = f"prompt {self.prompt}, token {self.token}: {self.taken} for {self.passed}"
        return f"{where}, {self.lead:.3g} apart; the original rounds by up to {self.noise:.3g}"


@dataclass
class Choices:
    """Of each layer with a router, and of its groups where experts are grouped."""

    places: dict[str, Choice] = field(default_factory=lambda: defaultdict(Choice))
    prompts: int = 0

    def add(
        self, shape: tuple[int, ...], routes: Mapping[int, np.ndarray], for_port: Trace, own: Trace, for_own: Trace
    ) -> None:
        """Takes in a call of a `shape` [prompts, length]: the port's routes, the exact scores on these routes, and the
        original's own with theirs.
        """
        prompts, length = shape
        for layer, chosen in routes.items():
            scores = for_port.choice[layer]
            pair = own.choice[layer], for_own.choice[layer]
            self.places[f"layer {layer}"].add(expert_lead(scores, chosen), *pair, self.prompts, length)
            if layer in for_port.group_scores:
                groups, kept = for_port.group_scores[layer]
                used = chosen // (scores.shape[1] // groups.shape[1])
                pair = own.group_scores[layer][0], for_own.group_scores[layer][0]
                leads = group_lead(groups, used, kept)
                self.places[f"groups of layer {layer}"].add(leads, *pair, self.prompts, length)
        self.prompts += prompts

    def check(self) -> Check:
        """The largest lead over its noise, and where: it may be as large as the original's own rounding can make it."""
        ratios = {place: choice.ratio() for place, choice in self.places.items()}
        place = max(ratios, key=ratios.__getitem__)
        detail = ", ".join(filter(None, (place, self.places[place].told())))
        return Check.at_most("routes changed, lead over noise", ratios[place], TIE, f"worst at {detail}")


@dataclass(frozen=True)
class Leads:
    """Of each token [tokens]: by how much what was passed over leads over what was taken, at least 0; and these two."""

    lead: np.ndarray
    taken: np.ndarray
    passed: np.ndarray


def expert_lead(scores: np.ndarray, chosen: np.ndarray) -> Leads:
    """Of the best expert left out over the worst of those chosen [tokens, K].

    Scores [tokens, E] are minus infinity, or as low as no other, outside the groups of those chosen.
    """
    inside = np.zeros(scores.shape, bool)
    np.put_along_axis(inside, chosen, True, axis=-1)
    left, kept = np.where(inside, -np.inf, scores), np.where(inside, scores, np.inf)
    with np.errstate(invalid="ignore"):  # minus infinity over minus infinity leads by nothing
        lead = np.fmax(left.max(axis=-1) - kept.min(axis=-1), 0.0)
    return Leads(lead, kept.argmin(axis=-1), left.argmax(axis=-1))


def group_lead(scores: np.ndarray, used: np.ndarray, kept: int) -> Leads:
    """Of the last of the `kept` best groups over the worst that was `used` [tokens, K]."""
    last = np.argsort(-scores, axis=-1, kind="stable")[:, kept - 1]
    values = np.take_along_axis(scores, used, axis=-1)
    worst = np.take_along_axis(used, values.argmin(axis=-1)[:, None], axis=-1)[:, 0]
    lead = np.take_along_axis(scores, last[:, None], axis=-1)[:, 0] - values.min(axis=-1)
    return Leads(np.maximum(lead, 0.0), worst, last)
