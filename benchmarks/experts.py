"""Routed experts on ONNX Runtime, one thread: porter's bodies beside torch's eager loop, interleaved in one run.

usage: python benchmarks/experts.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch

from porter.dialect import EXPERTS
from porter.graph import Graph
from porter.passes.lower import Lower
from porter.target import find_target

COUNT, TOP_K, HIDDEN, INNER = 64, 6, 1024, 512
NAMES = ("x", "weights", "experts", "gate_up", "down")


def inputs(tokens: int) -> dict[str, np.ndarray]:
    """Random activations and weights; distinct experts per token."""
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.standard_normal((tokens, HIDDEN)),
        "weights": rng.random((tokens, TOP_K)),
        "gate_up": rng.standard_normal((COUNT, 2 * INNER, HIDDEN)) / 32,
        "down": rng.standard_normal((COUNT, HIDDEN, INNER)) / 32,
    }
    chosen = np.stack([rng.permutation(COUNT)[:TOP_K] for _ in range(tokens)])
    return {name: a.astype(np.float32) for name, a in arrays.items()} | {"experts": chosen}


def session(body: int, feed: dict[str, np.ndarray]) -> Callable[[], object]:
    """The function with its `body`-th spelling, weights as initializers."""
    graph = Graph()
    x = graph.input("x", ir.DataType.FLOAT, ["T", HIDDEN])
    weights = graph.input("weights", ir.DataType.FLOAT, ["T", TOP_K])
    experts = graph.input("experts", ir.DataType.INT64, ["T", TOP_K])
    stacked = []
    for name in ("gate_up", "down"):
        stacked.append(graph.parameter(name, ir.DataType.FLOAT, feed[name].shape))
        stacked[-1].const_value = ir.Tensor(feed[name], name=name)
    bodies, EXPERTS.bodies[:] = list(EXPERTS.bodies), [EXPERTS.bodies[body]]
    try:
        graph.output(EXPERTS(graph, x, weights, experts, *stacked, top_k=TOP_K), "y", ["T", HIDDEN])
        model = ir.Model(graph.root, ir_version=8)
        Lower(find_target("onnxruntime-cpu").frontend)(model)
    finally:
        EXPERTS.bodies[:] = bodies
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    run = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    given = {name: feed[name] for name in ("x", "weights", "experts")}
    return lambda: run.run(None, given)[0]


def eager(feed: dict[str, np.ndarray]) -> Callable[[], object]:
    """The loop of transformers' eager experts."""
    x, weights, experts, gate_up, down = (torch.from_numpy(feed[name]) for name in NAMES)

    def run() -> np.ndarray:
        total = torch.zeros_like(x)
        mask = torch.nn.functional.one_hot(experts, COUNT).permute(2, 1, 0)
        for expert in mask.sum(dim=(-1, -2)).nonzero()[:, 0]:
            place, token = torch.where(mask[expert])
            gate, up = torch.nn.functional.linear(x[token], gate_up[expert]).chunk(2, dim=-1)
            hidden = torch.nn.functional.linear(torch.nn.functional.silu(gate) * up, down[expert])
            total.index_add_(0, token, hidden * weights[token, place, None])
        return total.numpy()

    return run


def main() -> None:
    """Prints milliseconds and ratios to torch, the median of interleaved rounds."""
    torch.set_num_threads(1)
    for tokens in (1, 128):
        feed = inputs(tokens)
        runs = {
            "torch eager": eager(feed),
            "loop over active": session(0, feed),
            "gather or all": session(1, feed),
            "all experts": session(2, feed),
        }
        reference = np.asarray(runs["torch eager"]())
        for name, run in runs.items():
            error = np.abs(np.asarray(run()) - reference).max()
            assert error < 1e-3, f"{name} is off by {error}"
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(15 if tokens == 1 else 5):
            for name, run in runs.items():
                begun = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - begun)
        base = np.median(times["torch eager"])
        print(f"{COUNT} experts, top {TOP_K}, hidden {HIDDEN}, inner {INNER}, {tokens} token(s), 1 thread")
        for name, taken in times.items():
            print(f"  {name:18} {1000 * np.median(taken):8.2f} ms   {np.median(taken) / base:5.2f} x torch")


if __name__ == "__main__":
    main()
