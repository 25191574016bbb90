"""The search of `porter plan --routes` beside a solver of mixed-integer programs (HiGHS, which SciPy brings): how even
the cards become, in which time. SciPy is no dependency of porter's; this is why.

usage: python benchmarks/placement_milp.py [SECONDS]
"""

from __future__ import annotations

import sys
import time

import numpy as np
from placement import skewed
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import block_array, csr_array, eye_array, kron

from porter.plan.placement import place
from porter.plan.room import Room

CASES = ((32, Room(4, 8, 4)), (64, Room(8, 8, 8)), (256, Room(32, 8, 32)))  # one node: load alone


def solved(counts: np.ndarray, room: Room, seconds: float) -> tuple[float, float]:
    """The fullest card that was found, and the bound: of each expert and card whether it lies there, of all cards the
    load of the fullest.
    """
    experts = len(counts)
    ones_of_expert = kron(eye_array(experts), np.ones((1, room.cards)))
    ones_of_card = kron(np.ones((1, experts)), eye_array(room.cards))
    load_of_card = kron(counts[None, :], eye_array(room.cards))
    nothing = csr_array((experts, 1)), csr_array((room.cards, 1))
    rows = block_array(
        [[ones_of_expert, nothing[0]], [ones_of_card, nothing[1]], [load_of_card, -np.ones((room.cards, 1))]]
    )
    low = np.concatenate([np.ones(experts), np.full(room.cards, room.slots), np.full(room.cards, -np.inf)])
    high = np.concatenate([np.ones(experts), np.full(room.cards, room.slots), np.zeros(room.cards)])
    goal = np.zeros(experts * room.cards + 1)
    goal[-1] = 1
    found = milp(
        goal,
        constraints=LinearConstraint(rows, low, high),
        bounds=Bounds(0, np.append(np.ones(len(goal) - 1), np.inf)),
        integrality=np.append(np.ones(len(goal) - 1), 0),
        options={"time_limit": seconds},
    )
    return float(found.fun), float(found.mip_dual_bound)


def main() -> None:
    """A row for each case."""
    limit = float(sys.argv[1]) if sys.argv[1:] else 60.0
    print(
        "| experts | cards | bound | HiGHS | seconds | search | seconds |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for experts, room in CASES:
        routes = skewed(1, 0.8, experts=experts, clusters=experts // 16)
        begun = time.perf_counter()
        whole, _ = solved(np.bincount(routes.reshape(-1), minlength=experts), room, limit)
        between = time.perf_counter()
        laid = place(routes, experts, room)
        ended = time.perf_counter()
        print(f"| {experts} | {room.cards} | {float(laid.bound):.0f} | {whole:.0f} | {between - begun:.1f} ", end="")
        print(f"| {float(laid.most):.0f} | {ended - between:.2f} |", flush=True)


if __name__ == "__main__":
    main()
