"""How tokens get to experts and back, whatever an expert computes: the loop over those that were hit, the choice
between gathering weights and taking all, and the weighted sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir

from porter.graph import Graph, cast, element_type

Expert = Callable[[ir.Value, ir.Value], ir.Value]  # its number and rows [n, D] → [n, D]
Body = Callable[[], ir.Value]


def when_open(attributes: Mapping[str, Any]) -> bool:
    """Whether the number of tokens shows in a call only."""
    return attributes.get("few") is None


def loop_over_active(
    graph: Graph, x: ir.Value, weights: ir.Value, experts: ir.Value, count: int, expert_of: Expert
) -> ir.Value:
    """A Loop over the experts that were hit: only their weights are read, only their tokens computed.

    Each round adds to the rows of its tokens by Gather, Add and ScatterND: a token meets an expert once, so no
    reduction is needed, which some importers drop silently.
    """
    op = graph.op
    active = _active(graph, experts, count)
    rounds = op.Squeeze(op.Shape(active))
    start = cast(
        graph, op.ConstantOfShape(op.Shape(x), value=ir.tensor([0.0], dtype=ir.DataType.FLOAT)), element_type(x)
    )

    def round_of(i: ir.Value, go_on: ir.Value, total: ir.Value) -> list[ir.Value]:
        expert = op.Gather(active, i, axis=0)  # scalar
        pairs = op.Transpose(op.NonZero(op.Equal(experts, expert)), perm=[1, 0])  # [n, 2]: token, place in its top k
        token, _ = op.Split(pairs, axis=1, outputs=2)  # [n, 1]
        result = expert_of(expert, op.GatherND(x, token))
        share = op.Unsqueeze(op.GatherND(weights, pairs), graph.ints(1))  # [n, 1]
        result = cast(graph, op.Mul(cast(graph, result, ir.DataType.FLOAT), share), element_type(x))
        return [op.Identity(go_on), op.ScatterND(total, token, op.Add(op.GatherND(total, token), result))]

    inputs = [
        ir.Value(name=f"{graph.where()}.{name}", type=ir.TensorType(dtype), shape=shape)
        for name, dtype, shape in (
            ("round", ir.DataType.INT64, ir.Shape([])),
            ("go_on", ir.DataType.BOOL, ir.Shape([])),
            ("total", element_type(x), None),
        )
    ]
    body = graph.subgraph(inputs, round_of)
    return op.Loop(rounds, graph.constant(True, ir.DataType.BOOL), start, body=body, outputs=1)


def few_else_all(graph: Graph, x: ir.Value, most: int, gathered: Body, all_of_them: Body) -> ir.Value:
    """For front ends without Loop: gathers the weights that each token needs where that reads no more than all experts
    (decode), which up to so many tokens do; else multiplies by all of them and keeps what was chosen (prefill).
    """
    op = graph.op
    tokens = op.Gather(op.Shape(x), graph.constant(0, ir.DataType.INT64), axis=0)
    small = op.LessOrEqual(tokens, graph.constant(most, ir.DataType.INT64))
    then_branch, else_branch = (graph.subgraph([], lambda body=body: [body()]) for body in (gathered, all_of_them))
    return op.If(small, then_branch=then_branch, else_branch=else_branch, outputs=1)


def summed_by_token(
    graph: Graph, results: ir.Value, weights: ir.Value, top_k: int, hidden_size: int, dtype: ir.DataType
) -> ir.Value:
    """Results of every token and choice, T * K of them with D numbers each → [T, D], weighted in float32."""
    op = graph.op
    results = cast(graph, op.Reshape(results, graph.ints(-1, top_k, hidden_size)), ir.DataType.FLOAT)  # [T, K, D]
    results = op.Mul(results, op.Unsqueeze(weights, graph.ints(2)))
    return cast(graph, op.ReduceSum(results, graph.ints(1), keepdims=0), dtype)


def shares(graph: Graph, experts: ir.Value, weights: ir.Value, count: int, *, keepdims: int) -> ir.Value:
    """What each expert counts for each token, zero where it was not chosen: [E, T], or [E, T, 1]."""
    op = graph.op
    numbers = graph.constant([[[n]] for n in range(count)], ir.DataType.INT64)  # [E, 1, 1]
    chosen = op.Cast(op.Equal(numbers, experts), to=ir.DataType.FLOAT)  # [E, T, K]
    return op.ReduceSum(op.Mul(chosen, weights), graph.ints(2), keepdims=keepdims)


def _active(graph: Graph, experts: ir.Value, count: int) -> ir.Value:
    """The experts that any token chose, ascending: int64 [A]."""
    op = graph.op
    numbers = graph.constant([[n] for n in range(count)], ir.DataType.INT64)  # [E, 1]
    hit = op.Equal(op.Reshape(experts, graph.ints(1, -1)), numbers)  # [E, T*K]
    hit = op.ReduceMax(op.Cast(hit, to=ir.DataType.FLOAT), axes=[1], keepdims=0)  # [E]
    return op.Reshape(op.NonZero(hit), graph.ints(-1))
