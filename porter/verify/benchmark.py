"""The double benchmark: port and original, both at the dtype that is deployed, each held against float64.

Both choose their experts freely, as they will in use. Float64 then follows the routes of the one that is held against
it: a near-tie that falls the other way is no error of what comes after it. The choices are judged by themselves. A port
whose choices cannot be seen is held, as the original is then, against float64 on its own routes. What
both are off from float64 on its own routes, which is what a user meets, is measured too; and so is the port led along
the original's routes, which takes every choice out of its arithmetic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from porter.verify.choices import Choices
from porter.verify.elementwise import Rule, measure, strange
from porter.verify.experts import Experts
from porter.verify.intervals import Sides
from porter.verify.logits import measure as measure_logits
from porter.verify.original import Original
from porter.verify.part import Trace
from porter.verify.prompts import Prompts
from porter.verify.routes import Recorder
from porter.verify.runs import PortRun, PortTrace
from porter.verify.variants import legal

ToEntries = Callable[..., tuple[np.ndarray, ...]]
Key = tuple[str, str]  # a quantity, and the layer or cache entry where it was measured
Values = dict[Key, np.ndarray]  # [prompts, numbers of each]


@dataclass(frozen=True)
class Parties:
    """Who is asked. `own` and `exact` have the weights that the port has, but for their rounding; `led` is the port
    once more, its routes an input, where it has routers.
    """

    port: PortRun
    own: Original
    exact: Original
    led: PortRun | None
    to_entries: ToEntries


@dataclass
class Errors:
    """Of each quantity at each place, each measure of single numbers: port beside original, prompt by prompt."""

    rule: Rule
    found: dict[Key, dict[str, Sides]] = field(default_factory=dict)
    sizes: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))  # mean squares of what is compared

    def add(self, port: Values, for_port: Values, own: Values, for_own: Values) -> None:
        """Takes in the next prompts: what each gave, and what float64 gives on its routes."""
        for key, mine in port.items():
            measured = measure(mine, for_port[key], self.rule), measure(own[key], for_own[key], self.rule)
            sides = self.found.setdefault(key, defaultdict(Sides))
            for name, values in measured[0].items():
                sides[name].add(values, measured[1][name])
            self.sizes[key].append(float(np.mean(for_own[key] ** 2)))

    def quantities(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys(quantity for quantity, _ in self.found))

    def places(self, quantity: str) -> list[str]:
        """Where it was measured."""
        return [place for name, place in self.found if name == quantity]

    def size(self, key: Key) -> float:
        """The root mean square of what is compared."""
        return float(np.sqrt(np.mean(self.sizes[key])))


@dataclass
class Benchmark:
    """All that was measured.

    `cost` are the measures by token against the original in float64 that wrote or read the prompts, on its own routes.
    """

    rule: Rule
    errors: Errors = field(init=False)
    led: Errors = field(init=False)
    variants: dict[str, Errors] = field(default_factory=dict)  # the original otherwise, in the port's place
    strange: dict[Key, int] = field(default_factory=lambda: defaultdict(int))  # values not finite, of the port alone
    tokens: dict[str, Sides] = field(default_factory=lambda: defaultdict(Sides))
    cost: dict[str, Sides] = field(default_factory=lambda: defaultdict(Sides))
    experts: Experts = field(default_factory=Experts)
    choices: Choices = field(default_factory=Choices)
    recorder: Recorder | None = None  # of what routers choose, where somebody asks

    def __post_init__(self) -> None:
        self.errors, self.led = Errors(self.rule), Errors(self.rule)


@np.errstate(all="ignore")  # what overflows is found, not warned of
def add_prompts(found: Benchmark, prompts: Prompts, parties: Parties) -> None:
    """Runs prompts on all sides; the first of all on the original's variants, too."""
    for batch in prompts.batches(parties.exact):
        ids = prompts.input_ids[batch]
        places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape), np.ones_like(ids)
        ported, _ = parties.port.run(ids, *places)
        rough, _ = parties.own.run(ids)
        exactly = {n: chosen[batch] for n, chosen in prompts.routes.items()}
        if found.recorder:
            found.recorder.add(exactly, ported.routes)
        if ported.routes:
            for_port, for_own = (parties.exact.run(ids, routes=trace.routes)[0] for trace in (ported, rough))
            found.choices.add(ids.shape, ported.routes, for_port, rough, for_own)
            found.experts.add(ported.routes, rough.routes, exactly, rough.choice)
        else:
            for_port = for_own = parties.exact.run(ids)[0]
        names = list(ported.cache)
        mine, own, of_port, of_own = (
            _of_port(ported, len(ids)),
            *(_of_original(trace, names, parties.to_entries) for trace in (rough, for_port, for_own)),
        )
        found.errors.add(mine, of_port, own, of_own)
        for key, values in mine.items():
            found.strange[key] += strange(values, own[key])
        if parties.led:
            led, _ = parties.led.run(ids, *places, routes=rough.routes)
            found.led.add(_of_port(led, len(ids)), of_own, own, of_own)
        if not found.variants:
            found.variants = _of_variants(found.rule, ids, parties, names, own, of_own, follow=bool(ported.routes))
        _add_tokens(found.tokens, prompts, batch, (ported.logits, rough.logits), (for_port.logits, for_own.logits))
        _add_tokens(found.cost, prompts, batch, (ported.logits, rough.logits), (prompts.logits[batch],) * 2)


def _of_variants(
    rule: Rule, ids: np.ndarray, parties: Parties, names: Sequence[str], own: Values, of_own: Values, *, follow: bool
) -> dict[str, Errors]:
    """The original computed in other ways, each as legal as its own, in the place of the port; float64 follows their
    routes where it does the port's.
    """
    found = {}
    for name, run in legal(parties.own).items():
        trace = run(parties.own, ids)
        exact = of_own
        if follow:
            exact = _of_original(parties.exact.run(ids, routes=trace.routes)[0], names, parties.to_entries)
        found[name] = Errors(rule)
        found[name].add(_of_original(trace, names, parties.to_entries), exact, own, of_own)
    return found


def _add_tokens(
    into: dict[str, Sides], prompts: Prompts, batch: slice, logits: Sequence[np.ndarray], exact: Sequence[np.ndarray]
) -> None:
    """Only of places whose next token means something: what follows a random one is of no interest."""
    here = prompts.written
    port, own = (
        measure_logits(side[:, here], reference[:, here], prompts.next_ids[batch, here])
        for side, reference in zip(logits, exact, strict=True)
    )
    for name, values in port.items():
        into[name].add(values, own[name])


def _of_port(trace: PortTrace, prompts: int) -> Values:
    found: Values = {("logits", ""): trace.logits}
    found |= {("layers", str(n)): values for n, values in trace.layers.items()}
    found |= {("router", str(n)): values for n, values in trace.router_logits.items()}
    found |= {("cache", name): values for name, values in trace.cache.items()}
    return {key: values.reshape(prompts, -1) for key, values in found.items()}


def _of_original(trace: Trace, cache_names: Sequence[str], to_entries: ToEntries) -> Values:
    found: Values = {("logits", ""): trace.logits}
    found |= {("layers", str(n)): values for n, values in trace.layers.items()}
    found |= {("router", str(n)): values for n, values in trace.router_logits.items()}
    entries = (entry for kept in trace.cache.values() for entry in to_entries(*kept))
    found |= {("cache", name): entry for name, entry in zip(cache_names, entries, strict=True)}
    return {key: values.reshape(len(trace.logits), -1) for key, values in found.items()}
