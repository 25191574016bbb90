"""What routers did with the prompts: how many tokens each expert was given, and how many went elsewhere than in the
original in float64 on its own routes; of the port, and of the original at its dtype.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from porter.verify.intervals import RESAMPLES, SEED, Pair, Sides, judge, mean
from porter.verify.report import Check, ExpertLoad

Routes = Mapping[int, np.ndarray]


@dataclass
class Experts:
    """By layer with a router: flips [prompts, tokens], 1 where any expert is another; loads [prompts, experts]."""

    flips: dict[int, Sides] = field(default_factory=lambda: defaultdict(Sides))
    loads: dict[int, Sides] = field(default_factory=lambda: defaultdict(Sides))

    def add(self, port: Routes, own: Routes, exact: Routes, scores: Routes) -> None:
        """Takes in a call: routes [N * S, K] of port and original, the exact ones [N, S, K], scores [N * S, E]."""
        for layer, chosen in exact.items():
            routes = [side[layer].reshape(chosen.shape) for side in (port, own)]
            self.flips[layer].add(*(flipped(side, chosen) for side in routes))
            self.loads[layer].add(*(loads(side, scores[layer].shape[1]) for side in routes))

    def figures(self) -> tuple[ExpertLoad, ...]:
        """For a chart."""
        found = []
        for layer, sides in sorted(self.loads.items()):
            pair = sides.pair()
            port, own = (tuple(int(n) for n in side.sum(axis=0)) for side in (pair.port, pair.own))
            found.append(ExpertLoad(layer, port, own))
        return tuple(found)

    def checks(self) -> list[Check]:
        """What is told: the shares of tokens that changed their experts, at any layer and, being led astray by nothing
        before, at their first; and where an expert's load differs most.
        """
        if not self.flips:
            return []
        pairs = {layer: sides.pair() for layer, sides in sorted(self.flips.items())}
        stacked = Pair(*(np.stack([side(pair) for pair in pairs.values()], 1) for side in (_port, _own)))
        every = Pair(stacked.port.reshape(len(stacked.port), -1), stacked.own.reshape(len(stacked.own), -1))
        once = Pair(stacked.port.max(axis=1), stacked.own.max(axis=1))
        firsts = [first_flips(side) for side in (stacked.port, stacked.own)]
        every_detail = _counts(pairs, stacked.port.sum(axis=(0, 2)), stacked.own.sum(axis=(0, 2)))
        return [
            replace(judge("routes changed", every, mean, None, 0.0), detail=every_detail),
            replace(judge("tokens rerouted", once, mean, None, 0.0), detail="first " + _counts(pairs, *firsts)),
            load_difference({layer: sides.pair() for layer, sides in sorted(self.loads.items())}),
        ]


def flipped(routes: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """1 for each token whose experts [N, S, K], in whatever order, are not the exact ones: [N, S]."""
    return (np.sort(routes) != np.sort(exact)).any(axis=-1).astype(np.float64)


def first_flips(flips: np.ndarray) -> np.ndarray:
    """Of flips [N, layers, S] those before which the token had none: how many in each layer, [layers]."""
    return np.asarray(((flips.cumsum(axis=1) == 1) & (flips == 1)).sum(axis=(0, 2)))


def loads(routes: np.ndarray, experts: int) -> np.ndarray:
    """How many tokens of each prompt [N, S, K] each expert was given: [N, experts]."""
    return np.stack([np.bincount(prompt.reshape(-1), minlength=experts) for prompt in routes]).astype(np.float64)


def load_difference(pairs: Mapping[int, Pair]) -> Check:
    """The expert whose share of a layer's work differs most between port and original, with its standard error."""
    found: list[tuple[float, int, int]] = []
    for layer, pair in pairs.items():
        apart = np.abs(_shares(pair.port) - _shares(pair.own))
        found.append((float(apart.max()), layer, int(apart.argmax())))
    value, layer, expert = max(found)
    pair = pairs[layer]
    drawn = np.random.default_rng(SEED).integers(0, len(pair.port), (RESAMPLES, len(pair.port)))
    error = float((_shares(pair.port[drawn]) - _shares(pair.own[drawn]))[:, expert].std())
    told = judge("", Pair(*(_of_expert(side, expert) for side in (pair.port, pair.own))), mean, None, 0.0)
    detail = f"layer {layer}, expert {expert}; standard error {error:.2g}"
    return replace(told, name="expert load, largest difference", value=value, detail=detail)


def _shares(counts: np.ndarray) -> np.ndarray:
    """Of loads [..., prompts, experts] over all prompts: [..., experts]."""
    sums = counts.sum(axis=-2)
    return np.asarray(sums / sums.sum(axis=-1, keepdims=True))


def _of_expert(counts: np.ndarray, expert: int) -> np.ndarray:
    """Its share of each prompt: [prompts, 1]. All prompts are equally long, so their mean is the share of all."""
    return np.asarray(counts[:, [expert]] / counts.sum(axis=1, keepdims=True))


def _counts(layers: Mapping[int, Pair], port: np.ndarray, own: np.ndarray) -> str:
    told = [f"layer {n}: {int(a)} and {int(b)}" for n, a, b in zip(layers, port, own, strict=True)]
    return f"of port and original, {', '.join(told)}"


def _port(pair: Pair) -> np.ndarray:
    return pair.port


def _own(pair: Pair) -> np.ndarray:
    return pair.own
