"""The double benchmark: port and original, both at the dtype that is deployed, each held against float64.

Both choose their experts freely, as they will in use. Float64 then follows the routes of the one that is held against
it: a near-tie that falls the other way is no error of what comes after it. The choices are judged by themselves. What
both are off from float64 on its own routes, which is what a user meets, is measured too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from porter.verify.choices import Choices
from porter.verify.intervals import Pair
from porter.verify.logits import measure
from porter.verify.original import Original
from porter.verify.part import Trace
from porter.verify.prompts import Prompts
from porter.verify.runs import PortRun, PortTrace

ToEntries = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]
Key = tuple[str, str]  # a quantity, and the layer or cache entry where it was measured
Values = dict[Key, np.ndarray]  # [prompts, numbers of each]


@dataclass
class Sides:
    """What was measured of port and original, batch by batch."""

    port: list[np.ndarray] = field(default_factory=list)
    own: list[np.ndarray] = field(default_factory=list)

    def add(self, port: np.ndarray, own: np.ndarray) -> None:
        """Takes in the next prompts."""
        self.port.append(port)
        self.own.append(own)

    def pair(self) -> Pair:
        """Over all prompts."""
        return Pair(np.concatenate(self.port), np.concatenate(self.own))


@dataclass
class Benchmark:
    """All that was measured: quantity and place → squared errors, measure → values by token.

    `cost` are the same measures against the original in float64 that wrote the prompts, on its own routes.
    """

    squares: dict[Key, Sides] = field(default_factory=lambda: defaultdict(Sides))
    sizes: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))  # mean squares of what is compared
    tokens: dict[str, Sides] = field(default_factory=lambda: defaultdict(Sides))
    cost: dict[str, Sides] = field(default_factory=lambda: defaultdict(Sides))
    routes: Sides = field(default_factory=Sides)
    choices: Choices = field(default_factory=Choices)


@np.errstate(all="ignore")  # what overflows is found, not warned of
def add_prompts(
    found: Benchmark, prompts: Prompts, port: PortRun, own: Original, exact: Original, to_entries: ToEntries
) -> None:
    """Runs prompts on all sides. `own` and `exact` have the weights that the port has, but for their rounding."""
    for batch in prompts.batches():
        ids = prompts.input_ids[batch]
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        ported, _ = port.run(ids, positions, np.ones_like(ids))
        rough, _ = own.run(ids)
        if prompts.routes:
            for_port, for_own = (exact.run(ids, routes=trace.routes)[0] for trace in (ported, rough))
            found.choices.add(ported.routes, for_port, rough, for_own)
            exactly = {n: chosen[batch] for n, chosen in prompts.routes.items()}
            found.routes.add(_changed(ported.routes, exactly), _changed(rough.routes, exactly))
        else:
            for_port = for_own = exact.run(ids)[0]
        references = [_of_original(trace, list(ported.cache), to_entries) for trace in (for_port, for_own)]
        _add_squares(found, _of_port(ported, len(ids)), _of_original(rough, list(ported.cache), to_entries), references)
        _add_tokens(found.tokens, prompts, batch, (ported.logits, rough.logits), (for_port.logits, for_own.logits))
        _add_tokens(found.cost, prompts, batch, (ported.logits, rough.logits), (prompts.logits[batch],) * 2)


def _add_squares(found: Benchmark, port: Values, own: Values, references: Sequence[Values]) -> None:
    for key, mine in port.items():
        for_port, for_own = references[0][key], references[1][key]
        found.squares[key].add(_square(mine, for_port), _square(own[key], for_own))
        found.sizes[key].append(np.mean(for_own**2))


def _add_tokens(
    into: dict[str, Sides], prompts: Prompts, batch: slice, logits: Sequence[np.ndarray], exact: Sequence[np.ndarray]
) -> None:
    """Only of places whose next token the original wrote: what follows a random one is of no interest."""
    here = prompts.written
    port, own = (
        measure(side[:, here], reference[:, here], prompts.next_ids[batch, here])
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
    entries = (entry for keys, values in trace.cache.values() for entry in to_entries(keys, values))
    found |= {("cache", name): entry for name, entry in zip(cache_names, entries, strict=True)}
    return {key: values.reshape(len(trace.logits), -1) for key, values in found.items()}


def _square(values: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The mean square of the error, by prompt: [N, 1]."""
    return np.asarray(np.mean((values.astype(np.float64) - exact) ** 2, axis=1, keepdims=True))


def _changed(routes: Mapping[int, np.ndarray], exact: Mapping[int, np.ndarray]) -> np.ndarray:
    """1 for each layer and token whose experts [N * S, K] are not the exact ones [N, S, K]: [N, layers * S]."""
    pairs = [(np.sort(routes[n].reshape(chosen.shape)), np.sort(chosen)) for n, chosen in exact.items()]
    return np.concatenate([(mine != theirs).any(axis=-1) for mine, theirs in pairs], axis=1).astype(np.float64)
