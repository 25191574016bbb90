"""Level two, the gate that decides: the port in float32 beside the original in float32, both against float64.

A port that computes the same function is off by the rounding of its own arithmetic, as the original is: at most ten
times as much. Measured on a four-layer DeepSeek-V3, legitimate variants reach 1.0 times and every planted mistake more
than ten thousand times, so the limit needs no tuning.

Routes are forced to the float64 original's on all sides, so that a near-tie does not blur the numbers; each router's
own choice, made from the same inputs, is judged by itself: it may differ only where the original's own rounding could
have changed it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from porter.verify.findings import TIE, Findings, checks_of, compare_routes
from porter.verify.logits import log_softmax
from porter.verify.original import Original
from porter.verify.part import Part, Past, Trace
from porter.verify.report import Check, Closeness, ErrorAt, Figures
from porter.verify.runs import PortPast, PortRun, PortTrace, Routes
from porter.verify.scenarios import Scenario
from porter.verify.stages import Stage

GREEDY = "greedy tokens"  # how far the original's token leads where the port takes another, over its own noise

ToEntries = Callable[..., tuple[np.ndarray, ...]]


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
        return [check for walk in walks for check in checks_of(walk.story.name, walk.findings)]

    @np.errstate(all="ignore")
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
        compare_routes(findings, real.reshape(-1), reference, baseline, result.routes)

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
