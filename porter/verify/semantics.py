"""Level two, the gate that decides: the port in float32 beside the original in float32, both against float64.

A port that computes the same function is off by the rounding of its own arithmetic, as the original is: at most ten
times as much. Measured on a four-layer DeepSeek-V3, legitimate variants reach 1.0 times and every planted mistake more
than ten thousand times, so the limit needs no tuning.

Routes are forced to the float64 original's on all sides, so that a near-tie does not blur the numbers; each router's
own choice, made from the same inputs, is judged by itself: it may differ only where the original's own rounding could
have changed it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from porter.verify.logits import log_softmax
from porter.verify.original import Original
from porter.verify.part import Part, Past, Trace
from porter.verify.report import Check, Closeness, ErrorAt, Figures
from porter.verify.runs import PortPast, PortRun, PortTrace, Routes
from porter.verify.scenarios import Scenario
from porter.verify.stages import Stage

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


@dataclass
class Walk:
    """A story under way: what was found, and of each call the mask over all places and what each side has to go on."""

    story: Scenario
    findings: Findings = field(default_factory=Findings)
    hidden: dict[str, list[np.ndarray | None]] = field(default_factory=dict)  # side → of each call [B, S, D]

    def masks(self) -> list[np.ndarray]:
        """[B, places] for each call."""
        mask = np.zeros((len(self.story.calls[0].input_ids), 0), np.int64)
        masks = []
        for call in self.story.calls:
            gap = np.zeros((len(mask), call.gap), np.int64)
            mask = np.concatenate([mask, gap, call.mask], axis=1)
            masks.append(mask)
        return masks


class Semantics:
    """Port and original side by side, stage by stage; `open_port` gives the port's part of one."""

    def __init__(
        self, open_port: Callable[[Stage], PortRun], exact: Original, own: Original, to_entries: ToEntries
    ) -> None:
        self._open_port, self._exact, self._own, self._to_entries = open_port, exact, own, to_entries
        self._logits: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._found: list[tuple[str, Findings]] = []

    @np.errstate(all="ignore")  # what overflows is found, not warned of
    def walk(self, stories: Sequence[Scenario], watch: Callable[[str], None]) -> list[Check]:
        """Runs stories on all three sides and compares everything that they have in common. Where all stages stay in
        memory story by story, else each stage once for all stories, one side in memory at a time.
        """
        walks = [Walk(story) for story in stories]
        stages = self._exact.stages
        for group in [[walk] for walk in walks] if stages.resident else [walks]:
            for stage in stages.parts:
                watch(group[0].story.name if stages.resident else str(stage))
                self._through(stage, group)
        self._found += [(walk.story.name, walk.findings) for walk in walks]
        return [check for walk in walks for check in _checks(walk.story.name, walk.findings)]

    def figures(self) -> Figures:
        """The error at every place, in the story where it is worst."""
        worst: dict[tuple[str, str], ErrorAt] = {}
        for story, findings in self._found:
            for quantity, places in findings.quantities.items():
                for place, found in places.items():
                    error = found.at(story, quantity, place)
                    held = worst.setdefault((quantity, place), error)
                    if not error.ratio <= held.ratio:
                        worst[quantity, place] = error
        return Figures(errors=tuple(worst.values()))

    def _through(self, stage: Stage, walks: Sequence[Walk]) -> None:
        part = self._exact.part(stage)
        exact = [self._original(part, "exact", walk) for walk in walks]
        self._exact.release()
        part = self._own.part(stage)
        routes = [[trace.routes for trace in traces] for traces in exact]
        own = [self._original(part, "own", walk, forced) for walk, forced in zip(walks, routes, strict=True)]
        self._own.release()
        del part
        port = self._open_port(stage)
        for walk, references, baselines, forced in zip(walks, exact, own, routes, strict=True):
            results = self._ported(port, walk, forced)
            for n, mask in enumerate(walk.masks()):
                self._compare(walk, n, mask, references[n], baselines[n], results[n])
                if stage.head:
                    self._compare_logits(walk, n, results[n], baselines[n], references[n])

    def _original(
        self, part: Part, side: str, walk: Walk, forced: Sequence[Mapping[int, np.ndarray]] = ()
    ) -> list[Trace]:
        """All calls of a story on one of the original's sides."""
        past: Past | None = None
        calls, given = walk.story.calls, walk.hidden.get(side)
        traces = []
        for n, (call, mask) in enumerate(zip(calls, walk.masks(), strict=True)):
            trace, past = part.run(
                call.input_ids,
                position_ids=call.position_ids,
                attention_mask=mask,
                past=past.with_gap(call.gap) if past and call.gap else past,
                routes=forced[n] if forced else None,
                embedding_scale=walk.story.embedding_scale,
                hidden=given[n] if given else None,
            )
            traces.append(trace)
        walk.hidden[side] = [trace.logits for trace in traces]
        return traces

    def _ported(self, port: PortRun, walk: Walk, forced: Sequence[Routes]) -> list[PortTrace]:
        """All calls of a story on the port's side."""
        past: PortPast | None = None
        story, given = walk.story, walk.hidden.get("port")
        run = port.of_size(story.size) if story.size else port
        traces = []
        for n, call in enumerate(story.calls):
            past = past.with_gap(call.gap) if past and call.gap else past
            hidden = given[n] if given else None
            trace, past = run.run(
                call.input_ids, call.position_ids, call.mask, past, forced[n], story.embedding_scale, hidden
            )
            traces.append(trace)
        walk.hidden["port"] = [trace.logits for trace in traces]
        return traces

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

    def first_choices(self) -> tuple[bool, Check]:
        """Where the original is not at hand for one token after the other: the likeliest token of every place that was
        compared, up to a choice that float32 could have made either way.
        """
        worst, detail, places = 0.0, "", 0
        for port, own, exact in self._logits:
            theirs, mine = exact.argmax(axis=-1), port.argmax(axis=-1)
            places += len(mine)
            for place in np.flatnonzero(theirs != mine):
                noise = float(np.abs(own[place] - exact[place]).max())
                gap = float(exact[place, theirs[place]] - exact[place, mine[place]])
                if worst < (lead := gap / noise if noise else np.inf):
                    worst, detail = lead, f"token {mine[place]} instead of {theirs[place]}, {gap:.3g} apart"
        match = not any((port.argmax(-1) != exact.argmax(-1)).any() for port, _, exact in self._logits)
        return match, Check.at_most("first choices", worst, TIE, detail or f"{places} of {places} equal")

    @np.errstate(all="ignore")
    def closeness(self, greedy_match: bool) -> Closeness:
        """The port's logits over all scenarios, in the measures that engineers ask for."""
        port = np.concatenate([p for p, _, _ in self._logits]).astype(np.float64)
        exact = np.concatenate([e for _, _, e in self._logits])
        cosine = np.sum(port * exact, -1) / (np.linalg.norm(port, axis=-1) * np.linalg.norm(exact, axis=-1) + 1e-300)
        p, q = log_softmax(exact), log_softmax(port)
        divergence = np.maximum(np.sum(np.exp(p) * (p - q), axis=-1), 0.0)
        return Closeness(greedy_match, float(np.abs(port - exact).max()), float(cosine.min()), float(divergence.mean()))

    def _compare(
        self, walk: Walk, number: int, mask: np.ndarray, reference: Trace, baseline: Trace, result: PortTrace
    ) -> None:
        findings, real = walk.findings, walk.story.calls[number].mask.astype(bool)
        for n, exact in reference.layers.items():
            mine = result.layers[n].reshape(exact.shape)
            findings.at("layers", n).add(mine[real], baseline.layers[n][real], exact[real])
        for n, logits in reference.router_logits.items():
            rows = real.reshape(-1)
            findings.at("router", n).add(result.router_logits[n][rows], baseline.router_logits[n][rows], logits[rows])
        self._compare_cache(findings, mask.astype(bool), reference, baseline, result)
        _compare_routes(findings, real.reshape(-1), reference, baseline, result.routes)

    def _compare_logits(self, walk: Walk, number: int, result: PortTrace, baseline: Trace, reference: Trace) -> None:
        real = walk.story.calls[number].mask.astype(bool)
        port, own, exact = (side.logits[real] for side in (result, baseline, reference))
        walk.findings.at("logits", "").add(port, own, exact)
        self._logits.append((port, own, exact))

    def _compare_cache(
        self, findings: Findings, real: np.ndarray, reference: Trace, baseline: Trace, result: PortTrace
    ) -> None:
        names = iter(result.cache)
        for layer, exact_layer in reference.cache.items():
            entries = self._to_entries(*exact_layer), self._to_entries(*baseline.cache[layer])
            for exact, own in zip(*entries, strict=True):
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
