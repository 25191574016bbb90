"""Level two, the gate that decides: the port in float32 beside the original in float32, both against float64.

A port that computes the same function is off by the rounding of its own arithmetic, as the original is: at most ten
times as much. Measured on a four-layer DeepSeek-V3, legitimate variants reach 1.0 times and every planted mistake more
than ten thousand times, so the limit needs no tuning.

Routes are forced to the float64 original's on all sides, so that a near-tie does not blur the numbers; each router's
own choice, made from the same inputs, is judged by itself: it may differ only where the original's own rounding could
have changed it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from porter.verify.logits import log_softmax
from porter.verify.original import Original, Past, Trace
from porter.verify.report import Check, Closeness
from porter.verify.runs import PortPast, PortRun, PortTrace
from porter.verify.scenarios import Call, Scenario

LIMIT = 10.0  # times the original's own float32 error
FLOOR = 2.0**-24  # of the size of what is compared: half a unit in the last place of float32
GREEDY = "greedy tokens"  # how far the original's token leads where the port takes another, over its own noise
TIE = 2.0  # a choice may flip where its margin is within this many times the original's own noise

ToEntries = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]


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


class Semantics:
    """Port and original side by side."""

    def __init__(self, port: PortRun, exact: Original, own: Original, to_entries: ToEntries) -> None:
        self._port, self._exact, self._own, self._to_entries = port, exact, own, to_entries
        self._logits: list[tuple[np.ndarray, np.ndarray]] = []

    def of(self, port: PortRun) -> Semantics:
        """The same original beside another run of the port."""
        return Semantics(port, self._exact, self._own, self._to_entries)

    @np.errstate(all="ignore")  # what overflows is found, not warned of
    def walk(self, scenario: Scenario) -> list[Check]:
        """Runs one scenario on all three sides and compares everything that they have in common."""
        findings = Findings()
        exact: Past | None = None
        own: Past | None = None
        port: PortPast | None = None
        mask = np.zeros((len(scenario.calls[0].input_ids), 0), np.int64)
        for call in scenario.calls:
            if call.gap and exact and own and port:
                exact, own, port = exact.with_gap(call.gap), own.with_gap(call.gap), port.with_gap(call.gap)
            mask = np.concatenate([mask, np.zeros((len(mask), call.gap), np.int64), call.mask], axis=1)
            ids, positions, scale = call.input_ids, call.position_ids, scenario.embedding_scale
            reference, exact = self._exact.run(
                ids, position_ids=positions, attention_mask=mask, past=exact, embedding_scale=scale
            )
            routes = reference.routes
            baseline, own = self._own.run(
                ids, position_ids=positions, attention_mask=mask, past=own, routes=routes, embedding_scale=scale
            )
            result, port = self._port.run(ids, positions, call.mask, port, routes, scale)
            self._compare(findings, call, mask, reference, baseline, result)
        return _checks(scenario.name, findings)

    def greedy(self, free: PortRun, prompt: np.ndarray, steps: int) -> tuple[bool, Check]:
        """Free-running greedy decoding: the same tokens, up to a choice that float32 could have made either way."""
        tokens, logits = self._exact.greedy(prompt, steps)
        _, rough = self._own.greedy(prompt, steps)
        ids, past, start = prompt, None, 0
        for step, (token, exact, own) in enumerate(zip(tokens, logits, rough, strict=True)):
            positions = np.arange(start, start + ids.shape[1])[None]
            trace, past = free.run(ids, positions, np.ones_like(ids), past)
            mine = int(trace.logits[0, -1].argmax())
            start, ids = start + ids.shape[1], np.array([[token]])
            if mine != token:
                noise = float(np.abs(own - exact).max())
                gap = float(exact[token] - exact[mine])
                detail = f"step {step}: token {mine} instead of {token}, {gap:.3g} apart"
                return False, Check.at_most(GREEDY, gap / noise if noise else np.inf, TIE, detail)
        return True, Check.at_most(GREEDY, 0, TIE, f"{steps} of {steps} tokens equal")

    @np.errstate(all="ignore")
    def closeness(self, greedy_match: bool) -> Closeness:
        """The port's logits over all scenarios, in the measures that engineers ask for."""
        port = np.concatenate([p for p, _ in self._logits]).astype(np.float64)
        exact = np.concatenate([e for _, e in self._logits])
        cosine = np.sum(port * exact, -1) / (np.linalg.norm(port, axis=-1) * np.linalg.norm(exact, axis=-1) + 1e-300)
        p, q = log_softmax(exact), log_softmax(port)
        divergence = np.maximum(np.sum(np.exp(p) * (p - q), axis=-1), 0.0)
        return Closeness(greedy_match, float(np.abs(port - exact).max()), float(cosine.min()), float(divergence.mean()))

    def _compare(
        self, findings: Findings, call: Call, mask: np.ndarray, reference: Trace, baseline: Trace, result: PortTrace
    ) -> None:
        real = call.mask.astype(bool)
        findings.at("logits", "").add(result.logits[real], baseline.logits[real], reference.logits[real])
        self._logits.append((result.logits[real], reference.logits[real]))
        for n, exact in enumerate(reference.layers):
            mine = result.layers[n].reshape(exact.shape)
            findings.at("layers", n).add(mine[real], baseline.layers[n][real], exact[real])
        for n, logits in reference.router_logits.items():
            rows = real.reshape(-1)
            findings.at("router", n).add(result.router_logits[n][rows], baseline.router_logits[n][rows], logits[rows])
        self._compare_cache(findings, mask.astype(bool), reference, baseline, result)
        _compare_routes(findings, real.reshape(-1), reference, baseline, result.routes)

    def _compare_cache(
        self, findings: Findings, real: np.ndarray, reference: Trace, baseline: Trace, result: PortTrace
    ) -> None:
        names = iter(result.cache)
        for exact_layer, own_layer in zip(reference.cache, baseline.cache, strict=True):
            for exact, own in zip(self._to_entries(*exact_layer), self._to_entries(*own_layer), strict=True):
                name = next(names)
                picked = [a.transpose(0, 2, 1, 3)[real] for a in (result.cache[name], own, exact)]
                findings.at("cache", name).add(*picked)


def _compare_routes(
    findings: Findings, real: np.ndarray, reference: Trace, baseline: Trace, routes: Mapping[int, np.ndarray]
) -> None:
    """Each router's own choice from the same inputs, against the float64 original's."""
    for layer, chosen in reference.routes.items():
        tied = _near_tie(reference, baseline, layer, chosen.shape[1])
        for token in np.flatnonzero(real):
            mine, theirs = set(routes[layer][token].tolist()), set(chosen[token].tolist())
            if mine == theirs:
                continue
            if tied[token]:
                findings.ties += 1
            else:
                swapped = f"{sorted(mine - theirs)} for {sorted(theirs - mine)}"
                findings.flips.append(f"layer {layer}, token {token}: {swapped}")


def _near_tie(reference: Trace, baseline: Trace, layer: int, top_k: int) -> np.ndarray:
    """Tokens [B * S] whose choice of experts, or of groups, the original's own rounding could have changed."""
    tied = _within_noise(reference.choice[layer], baseline.choice[layer], top_k)
    if layer in reference.group_scores:
        scores, top_groups = reference.group_scores[layer]
        tied |= _within_noise(scores, baseline.group_scores[layer][0], top_groups)
    return tied


def _within_noise(exact: np.ndarray, own: np.ndarray, top_k: int) -> np.ndarray:
    """Rows [rows, n] whose top_k-th and next best scores are no further apart than TIE times the largest rounding."""
    both = np.isfinite(exact) & np.isfinite(own)
    noise = float(np.abs(np.where(both, exact, 0) - np.where(both, own, 0)).max())
    ordered = -np.sort(-exact, axis=-1)
    if ordered.shape[-1] <= top_k:
        return np.zeros(len(exact), bool)
    return np.asarray(ordered[:, top_k - 1] - ordered[:, top_k] <= TIE * noise)


def _checks(scenario: str, findings: Findings) -> list[Check]:
    checks = [_ratio_check(f"{scenario}: {name}", places) for name, places in findings.quantities.items()]
    if "router" in findings.quantities:
        detail = "; ".join(findings.flips[:3]) or (f"{findings.ties} near-ties" if findings.ties else "")
        checks.append(Check.at_most(f"{scenario}: routes changed", len(findings.flips), 0, detail))
    return checks


def _ratio_check(name: str, places: Mapping[str, Comparison]) -> Check:
    """The worst place counts; one where the original gave no numbers decides nothing."""
    if not all(c.measurable() for c in places.values()):
        return Check(name, 0.0, LIMIT, "inconclusive", "the original gives values that are not finite")
    ratios = {place: c.ratio() for place, c in places.items()}
    worst = max(ratios, key=lambda place: ratios[place] if np.isfinite(ratios[place]) else np.inf)
    return Check.at_most(name, ratios[worst], LIMIT, f"worst at {worst}" if worst else "")
