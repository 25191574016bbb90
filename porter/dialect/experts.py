"""Experts(x, weights, experts, gate_up, down) {top_k}: every token through its chosen experts, weighted and summed.

x [T, D], weights [T, K] float32, experts [T, K] int64 (distinct in a row), gate_up [E, 2F, D], down [E, D, F] → [T, D].
"""

from __future__ import annotations

import onnx_ir as ir

from porter.dialect.function import function
from porter.dialect.swiglu import SWIGLU
from porter.graph import Graph, cast, element_type, width


@function("Experts", needs=("Loop", "NonZero"))
def EXPERTS(
    graph: Graph,
    x: ir.Value,
    weights: ir.Value,
    experts: ir.Value,
    gate_up: ir.Value,
    down: ir.Value,
    *,
    top_k: int,
) -> ir.Value:
    """A Loop over the experts that were hit: only their weights are read, only their tokens computed.

    Each round adds to the rows of its tokens by Gather, Add and ScatterND: a token meets an expert once, so no
    reduction is needed, which some importers drop silently.
    """
    op = graph.op
    active = _active(graph, experts, width(gate_up, 0))
    rounds = op.Squeeze(op.Shape(active))
    start = cast(
        graph, op.ConstantOfShape(op.Shape(x), value=ir.tensor([0.0], dtype=ir.DataType.FLOAT)), element_type(x)
    )

    def round_of(i: ir.Value, go_on: ir.Value, total: ir.Value) -> list[ir.Value]:
        expert = op.Gather(active, i, axis=0)  # scalar
        pairs = op.Transpose(op.NonZero(op.Equal(experts, expert)), perm=[1, 0])  # [n, 2]: token, place in its top k
        token, _ = op.Split(pairs, axis=1, outputs=2)  # [n, 1]
        rows = op.GatherND(x, token)  # [n, D]
        hidden = op.Gemm(rows, op.Gather(gate_up, expert, axis=0), transB=1)  # [n, 2F]
        hidden = SWIGLU(graph, *op.Split(hidden, axis=-1, outputs=2))  # [n, F]
        result = op.Gemm(hidden, op.Gather(down, expert, axis=0), transB=1)  # [n, D]
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


@EXPERTS.alternative("If")
def gather_few_else_all(
    graph: Graph,
    x: ir.Value,
    weights: ir.Value,
    experts: ir.Value,
    gate_up: ir.Value,
    down: ir.Value,
    *,
    top_k: int,
) -> ir.Value:
    """Static shapes only, for front ends without Loop: gathers the weights that each token needs where that reads no
    more than all experts (decode), else multiplies by all of them and keeps what was chosen (prefill).
    """
    op = graph.op
    tokens = op.Gather(op.Shape(x), graph.constant(0, ir.DataType.INT64), axis=0)
    few = op.LessOrEqual(tokens, graph.constant(width(gate_up, 0) // top_k, ir.DataType.INT64))
    arguments = (graph, x, weights, experts, gate_up, down)
    then_branch = graph.subgraph([], lambda: [gather_chosen(*arguments, top_k=top_k)])
    else_branch = graph.subgraph([], lambda: [multiply_all(*arguments, top_k=top_k)])
    return op.If(few, then_branch=then_branch, else_branch=else_branch, outputs=1)


@EXPERTS.alternative()
def multiply_all(
    graph: Graph,
    x: ir.Value,
    weights: ir.Value,
    experts: ir.Value,
    gate_up: ir.Value,
    down: ir.Value,
    *,
    top_k: int,
) -> ir.Value:
    """Every token through every expert. The weights stand on the left, so that none is transposed."""
    op, count = graph.op, width(gate_up, 0)
    hidden = op.MatMul(gate_up, op.Transpose(x, perm=[1, 0]))  # [E, 2F, T]
    hidden = SWIGLU(graph, *op.Split(hidden, axis=1, outputs=2))  # [E, F, T]
    results = cast(graph, op.MatMul(down, hidden), ir.DataType.FLOAT)  # [E, D, T]
    numbers = graph.constant([[[n]] for n in range(count)], ir.DataType.INT64)  # [E, 1, 1]
    chosen = op.Cast(op.Equal(numbers, experts), to=ir.DataType.FLOAT)  # [E, T, K]
    share = op.ReduceSum(op.Mul(chosen, weights), graph.ints(2), keepdims=0)  # [E, T]
    total = op.ReduceSum(op.Mul(results, op.Unsqueeze(share, graph.ints(1))), graph.ints(0), keepdims=0)  # [D, T]
    return cast(graph, op.Transpose(total, perm=[1, 0]), element_type(x))


def gather_chosen(
    graph: Graph,
    x: ir.Value,
    weights: ir.Value,
    experts: ir.Value,
    gate_up: ir.Value,
    down: ir.Value,
    *,
    top_k: int,
) -> ir.Value:
    """One copy of an expert's weights per token and choice: T * K of them."""
    op, hidden_size = graph.op, width(down, 1)
    chosen = op.Reshape(experts, graph.ints(-1))  # [T*K]
    rows = op.Tile(op.Unsqueeze(x, graph.ints(1)), graph.ints(1, top_k, 1))  # [T, K, D]
    rows = op.Reshape(rows, graph.ints(-1, hidden_size, 1))  # [T*K, D, 1]
    hidden = op.MatMul(op.Gather(gate_up, chosen, axis=0), rows)  # [T*K, 2F, 1]
    hidden = SWIGLU(graph, *op.Split(hidden, axis=1, outputs=2))  # [T*K, F, 1]
    results = op.MatMul(op.Gather(down, chosen, axis=0), hidden)  # [T*K, D, 1]
    results = cast(graph, op.Reshape(results, graph.ints(-1, top_k, hidden_size)), ir.DataType.FLOAT)  # [T, K, D]
    results = op.Mul(results, op.Unsqueeze(weights, graph.ints(2)))
    return cast(graph, op.ReduceSum(results, graph.ints(1), keepdims=0), element_type(x))


def _active(graph: Graph, experts: ir.Value, count: int) -> ir.Value:
    """The experts that any token chose, ascending: int64 [A]."""
    op = graph.op
    numbers = graph.constant([[n] for n in range(count)], ir.DataType.INT64)  # [E, 1]
    hit = op.Equal(op.Reshape(experts, graph.ints(1, -1)), numbers)  # [E, T*K]
    hit = op.ReduceMax(op.Cast(hit, to=ir.DataType.FLOAT), axes=[1], keepdims=0)  # [E]
    return op.Reshape(op.NonZero(hit), graph.ints(-1))
