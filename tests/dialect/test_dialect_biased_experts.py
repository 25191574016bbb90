"""BiasedExperts, in each of its bodies, against a loop over tokens and their chosen experts in float64; its gate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from onnx_run import TOLERANCE, compute, error, normals

from porter.dialect import BIASED_EXPERTS, CLAMPED_SWIGLU
from porter.dialect.biased_experts import gather_chosen_biased, gather_few_else_all_biased, multiply_all_biased
from porter.graph import Graph

LOOP = BIASED_EXPERTS.bodies[0].build
BODIES: dict[str, Callable[..., ir.Value]] = {
    "loop": LOOP, "few or all": gather_few_else_all_biased, "all": multiply_all_biased, "few": gather_chosen_biased
}  # fmt: skip
ALPHA, LIMIT = 1.702, 0.8
Tensors = list[np.ndarray]  # x, weights, experts, gate_up, gate_up_bias, down, down_bias


def gated(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    gate, up = np.minimum(gate.astype(np.float64), LIMIT), np.clip(up.astype(np.float64), -LIMIT, LIMIT)
    return gate / (1 + np.exp(-ALPHA * gate)) * (up + 1)


def mixture(given: Tensors) -> np.ndarray:
    x, weights, experts, gate_up, gate_up_bias, down, down_bias = given
    result = np.zeros(x.shape)
    for t, k in np.ndindex(*experts.shape):
        n = experts[t, k]
        both = x[t].astype(np.float64) @ gate_up[n] + gate_up_bias[n]
        result[t] += weights[t, k] * (gated(both[::2], both[1::2]) @ down[n] + down_bias[n])
    return result


def tensors(dtype: str, tokens: int, hidden: int, inner: int, count: int, top_k: int) -> Tensors:
    x, *parts = normals(
        dtype, (tokens, hidden), (count, hidden, 2 * inner), (count, 2 * inner), (count, inner, hidden), (count, hidden)
    )
    rng = np.random.default_rng(1)
    experts = np.stack([rng.permutation(count)[:top_k] for _ in range(tokens)]).astype(np.int64)
    return [x, rng.random((tokens, top_k), np.float32), experts, *parts]


def test_every_body_is_tried() -> None:
    assert [b.build for b in BIASED_EXPERTS.bodies] == [LOOP, gather_few_else_all_biased, gather_chosen_biased,
                                                       multiply_all_biased]  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (1, 5, 3, 7, 2), (4, 8, 6, 7, 2), (9, 7, 5, 3, 3)], ids=str)
@pytest.mark.parametrize("body", BODIES)
def test_each_token_goes_through_its_experts(body: str, sizes: tuple[int, int, int, int, int], dtype: str) -> None:
    given = tensors(dtype, *sizes)

    def build(graph: Graph, x: ir.Value, *inputs: ir.Value) -> ir.Value:
        result = BODIES[body](graph, x, *inputs, top_k=sizes[4], alpha=ALPHA, limit=LIMIT)
        result.shape = x.shape  # restated, as for every graph output: ONNX infers none through Loop and If
        return result

    got = compute(build, *given)
    assert got.dtype == dtype
    assert error(got, mixture(given)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gates_are_cut_off_above_and_ups_on_both_sides(dtype: str) -> None:
    gate, up = (3 * a for a in normals(dtype, (40, 7), (40, 7)))
    got = compute(lambda graph, a, b: CLAMPED_SWIGLU(graph, a, b, alpha=ALPHA, limit=LIMIT), gate, up)
    assert got.dtype == dtype
    assert error(got, gated(gate, up)) < TOLERANCE[dtype]
