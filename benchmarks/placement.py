"""How much better experts lie where the traffic is: `porter plan --routes` against simpler placements.

usage: python benchmarks/placement.py [ROUTES.npz ...]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from porter.plan.placement import SIMPLE, Laid, place, simply
from porter.plan.room import Room

ROOMS = [Room(32, 8, 8), Room(64, 4, 8), Room(32, 9, 8)]


def skewed(seed: int, *, tokens: int = 4096, experts: int = 256, top_k: int = 8, clusters: int = 16) -> np.ndarray:
    """Routes [T, K]: experts as likely as Zipf has it, of which a token takes most from one cluster that is mixed over
    all numbers.
    """
    generator = np.random.default_rng(seed)
    likely = (np.arange(experts) + 10.0) ** -0.8
    generator.shuffle(likely)
    cluster = generator.permutation(experts) % clusters
    theme = generator.choice(clusters, tokens, p=generator.dirichlet(np.full(clusters, 4.0)))
    scores = np.log(likely) + 3.0 * (cluster == theme[:, None])
    return np.argsort(-(scores + generator.gumbel(size=scores.shape)), axis=1)[:, :top_k]


if __name__ == "__main__":
    for room in ROOMS:
        for seed in (1,):
            routes = skewed(seed)
            print(room)
            for name in SIMPLE:
                s = simply(name, routes, 256, room)
                print(f"  {name:12} {float(s.most / s.mean):.4f} {float(s.traffic.nodes):.3f} {float(s.traffic.cards):.3f}")
            t = time.process_time()
            p = place(routes, 256, room)
            print(f"  placed       {float(p.most / p.mean):.4f} {float(p.traffic.nodes):.3f} {float(p.traffic.cards):.3f} gap {float(p.gap):.5f} {time.process_time()-t:.2f} s")
