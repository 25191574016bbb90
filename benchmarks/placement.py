"""How much better experts lie where the traffic is: `porter plan --routes` against simpler placements.

Loads are those of the fullest card over the mean, summed over layers; nodes are those that a token goes to beside its
own, in a layer. Of the synthetic routes every seed is a layer; seconds are of a core. Routes that were recorded are
given as files of `porter verify --save-routes`.

usage: python benchmarks/placement.py [ROUTES.npz ...]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from porter.plan.placement import SIMPLE, Laid, place, simply
from porter.plan.room import Room
from porter.plan.routes import read_routes

SEEDS = range(4)
SKEWS = (0.0, 0.5, 1.0)  # the exponent of Zipf
ROOMS = {256: (Room(32, 8, 8), Room(32, 9, 8), Room(144, 2, 8)), 16: (Room(4, 4, 2), Room(4, 5, 2))}


def skewed(
    seed: int, skew: float, *, tokens: int = 4096, experts: int = 256, top_k: int = 8, clusters: int = 16
) -> np.ndarray:
    """Routes [T, K]: experts as likely as Zipf has it, the first dozen evened a little, of which a token takes most
    from one of the clusters, whose members are spread over all numbers.
    """
    generator = np.random.default_rng(seed)
    likely = (np.arange(experts) + 10.0) ** -skew
    generator.shuffle(likely)
    cluster = generator.permutation(experts) % clusters
    theme = generator.choice(clusters, tokens, p=generator.dirichlet(np.full(clusters, 4.0)))
    scores = np.log(likely) + 3.0 * (cluster == theme[:, None]) + generator.gumbel(size=(tokens, experts))
    return np.argsort(-scores, axis=1)[:, :top_k]


def table(name: str, layers: Sequence[np.ndarray], experts: int, rooms: Sequence[Room]) -> None:
    """A row for each way of placing, of all layers together."""
    for room in rooms:
        begun = time.process_time()
        placed = [place(routes, experts, room) for routes in layers]
        seconds = (time.process_time() - begun) / len(layers)
        where = f"{name} | {room.cards} x {room.slots} on {room.nodes} nodes"
        for way in SIMPLE:
            print(f"| {where} | {way.replace('_', ' ')} | {_row([simply(way, r, experts, room) for r in layers])} | |")
        print(f"| {where} | **by the routes** | {_row(placed)} | {seconds:.2f} s |")


def _row(layers: Sequence[Laid]) -> str:
    most, mean, least = (float(sum(getattr(one, name) for one in layers)) for name in ("most", "mean", "bound"))
    nodes = float(sum(one.traffic.nodes for one in layers)) / len(layers)
    return f"{most / mean:.4f} | {most / least - 1:.2%} | {nodes:.3f}"


def main() -> None:
    """Synthetic routes by their skew, and those that were recorded."""
    print("| routes | cards x slots | placed | fullest over mean | above the bound | other nodes | a layer |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for skew in SKEWS:
        table(f"Zipf {skew:g}", [skewed(seed, skew) for seed in SEEDS], 256, ROOMS[256])
    for path in sys.argv[1:]:
        routes = read_routes(Path(path))
        table(Path(path).stem, list(routes.layers.values()), routes.experts, ROOMS[routes.experts])


if __name__ == "__main__":
    main()
