"""How much better experts lie where the traffic is: `porter plan --routes` against simpler placements.

Loads are those of the fullest card over the mean, summed over layers; nodes are those that a token goes to beside its
own, in a layer. Of the synthetic routes every seed is a layer; seconds are of a core. Routes that were recorded are
given as files of `porter verify --save-routes`. What is unseen: placed by every other token, weighed by the rest.

usage: python benchmarks/placement.py [ROUTES.npz ...]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from porter.plan.placement import SIMPLE, Laid, place, simply, weighed
from porter.plan.room import Room, dealt
from porter.plan.routes import read_routes

SEEDS = range(3)
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
    """A row for each way of placing, of all layers together; at the end as it is of tokens that were not seen."""
    seen, unseen = ([routes[half] for routes in layers] for half in (slice(None, None, 2), slice(1, None, 2)))
    for room in rooms:
        for way in (*SIMPLE, "**by the routes**"):
            begun = time.process_time()
            found = [_placed(way, routes, experts, room) for routes in layers]
            seconds = (time.process_time() - begun) / len(layers)
            learned = [_placed(way, routes, experts, room) for routes in seen]
            judged = [again(one, routes, experts, room) for one, routes in zip(learned, unseen, strict=True)]
            where = f"{name} | {room.cards} x {room.slots}, {room.nodes} nodes"
            most, nodes = _over_mean(judged), _nodes(judged)
            least = float(sum(one.bound for one in found))
            gap = float(sum(one.most for one in found)) / least - 1
            print(
                f"| {where} | {way.replace('_', ' ')} | {_over_mean(found):.4f} | {gap:.2%} | {_nodes(found):.3f} ",
                end="",
            )
            print(f"| {most:.4f} | {nodes:.3f} | {seconds:.2f} s |")


def _placed(way: str, routes: np.ndarray, experts: int, room: Room) -> Laid:
    return simply(way, routes, experts, room) if way in SIMPLE else place(routes, experts, room)


def again(laid: Laid, routes: np.ndarray, experts: int, room: Room) -> Laid:
    """A placement with other routes than it was made for."""
    expert = np.array([e for card in laid.cards for e in card])
    card = np.repeat(np.arange(room.cards), [len(held) for held in laid.cards])
    counts = np.bincount(routes.reshape(-1), minlength=experts)
    pieces = dealt(np.bincount(expert, minlength=experts), counts, room)
    return weighed(pieces, card[np.argsort(expert, kind="stable")], routes, room)


def _over_mean(layers: Sequence[Laid]) -> float:
    return float(sum(one.most for one in layers) / sum(one.mean for one in layers))


def _nodes(layers: Sequence[Laid]) -> float:
    return float(sum(one.traffic.nodes for one in layers)) / len(layers)


def main() -> None:
    """Synthetic routes by their skew, and those that were recorded."""
    print(
        "| routes | cards x slots | placed | fullest / mean | above the bound | nodes | unseen: fullest / mean ", end=""
    )
    print("| nodes | a layer |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for skew in SKEWS:
        table(f"Zipf {skew:g}", [skewed(seed, skew) for seed in SEEDS], 256, ROOMS[256])
    for path in sys.argv[1:]:
        routes = read_routes(Path(path))
        table(Path(path).stem, list(routes.layers.values()), routes.experts, ROOMS[routes.experts])


if __name__ == "__main__":
    main()
