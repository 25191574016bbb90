"""BiasedExperts(x, weights, experts, gate_up, gate_up_bias, down, down_bias) {top_k, alpha, limit}: as Experts, of maps
that lie with their inputs first and have biases, and whose gates and ups stand in turn (GPT-OSS).

x [T, D], weights [T, K] float32, experts [T, K] int64 (distinct in a row), gate_up [E, D, 2F], gate_up_bias [E, 2F],
down [E, F, D], down_bias [E, D] → [T, D]. Where T is known, `few` says whether the T * K experts chosen are no more
than there are.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from porter.dialect.dispatch import few_else_all, loop_over_active, shares, summed_by_token, when_open
from porter.dialect.function import function
from porter.dialect.swiglu import CLAMPED_SWIGLU
from porter.graph import Graph, cast, element_type, width


@function("BiasedExperts", needs=("Loop", "NonZero"), when=when_open)
def BIASED_EXPERTS(
    graph: Graph,
    x: ir.Value,
    weights: ir.Value,
    experts: ir.Value,
    gate_up: ir.Value,
    gate_up_bias: ir.Value,
    down: ir.Value,
    down_bias: ir.Value,
    *,
    top_k: int,
    alpha: float,
    limit: float,
    few: int | None = None,
) -> ir.Value:
    """A Loop over the experts that were hit."""
    op = graph.op

    def expert_of(expert: ir.Value, rows: ir.Value) -> ir.Value:
        first, first_bias, second, second_bias = (
            op.Gather(part, expert, axis=0) for part in (gate_up, gate_up_bias, down, down_bias)
        )
        hidden = op.Add(op.Gemm(rows, first), first_bias)  # [n, 2F]
        hidden = _gated(graph, hidden, width(down, 1), alpha, limit)
        return op.Add(op.Gemm(hidden, second), second_bias)  # [n, D]

    return loop_over_active(graph, x, weights, experts, width(gate_up, 0), expert_of)


@BIASED_EXPERTS.alternative("If", when=when_open)
def gather_few_else_all_biased(
    graph: Graph,
    x: ir.Value,
    weights: ir.Value,
    experts: ir.Value,
    *parts: ir.Value,
    top_k: int,
    alpha: float,
    limit: float,
    few: int | None = None,
) -> ir.Value:
    """For front ends without Loop."""

    def through(body: Callable[..., ir.Value]) -> Callable[[], ir.Value]:
        return lambda: body(graph, x, weights, experts, *parts, top_k=top_k, alpha=alpha, limit=limit)

    few_of_them, all_of_them = through(gather_chosen_biased), through(multiply_all_biased)
    return few_else_all(graph, x, width(parts[0], 0) // top_k, few_of_them, all_of_them)


@BIASED_EXPERTS.alternative(when=lambda attributes: bool(attributes.get("few")))
def gather_chosen_biased(
    graph: Graph,
    x: ir.Value,
    weights: ir.Value,
    experts: ir.Value,
    *parts: ir.Value,
    top_k: int,
    alpha: float,
    limit: float,
    few: int | None = None,
) -> ir.Value:
    """One copy of an expert's weights per token and choice: T * K of them."""
    op, hidden_size = graph.op, width(parts[2], 2)
    chosen = op.Reshape(experts, graph.ints(-1))  # [T*K]
    first, first_bias, second, second_bias = (op.Gather(part, chosen, axis=0) for part in parts)
    rows = op.Tile(op.Unsqueeze(x, graph.ints(1)), graph.ints(1, top_k, 1))  # [T, K, D]
    rows = op.Reshape(rows, graph.ints(-1, 1, hidden_size))  # [T*K, 1, D]
    hidden = op.Add(op.MatMul(rows, first), op.Unsqueeze(first_bias, graph.ints(1)))  # [T*K, 1, 2F]
    hidden = _gated(graph, hidden, width(parts[2], 1), alpha, limit, 1)
    results = op.Add(op.MatMul(hidden, second), op.Unsqueeze(second_bias, graph.ints(1)))  # [T*K, 1, D]
    return summed_by_token(graph, results, weights, top_k, hidden_size, element_type(x))


@BIASED_EXPERTS.alternative()
def multiply_all_biased(
    graph: Graph,
    x: ir.Value,
    weights: ir.Value,
    experts: ir.Value,
    *parts: ir.Value,
    top_k: int,
    alpha: float,
    limit: float,
    few: int | None = None,
) -> ir.Value:
    """Every token through every expert."""
    op, (gate_up, gate_up_bias, down, down_bias) = graph.op, parts
    count = width(gate_up, 0)
    copies = op.Tile(op.Unsqueeze(x, graph.ints(0)), graph.ints(count, 1, 1))  # [E, T, D]
    hidden = op.Add(op.MatMul(copies, gate_up), op.Unsqueeze(gate_up_bias, graph.ints(1)))  # [E, T, 2F]
    hidden = _gated(graph, hidden, width(down, 1), alpha, limit, count)
    results = op.Add(op.MatMul(hidden, down), op.Unsqueeze(down_bias, graph.ints(1)))  # [E, T, D]
    share = shares(graph, experts, weights, count, keepdims=1)  # [E, T, 1]
    total = op.ReduceSum(op.Mul(cast(graph, results, ir.DataType.FLOAT), share), graph.ints(0), keepdims=0)  # [T, D]
    return cast(graph, total, element_type(x))


def _gated(
    graph: Graph, hidden: ir.Value, inner: int, alpha: float, limit: float, front: int | None = None
) -> ir.Value:
    """[..., 2F], gates and ups in turn → [..., F]; `front` is how many rows of rows a matrix of rank 3 has, or 1."""
    op = graph.op
    pairs = op.Reshape(hidden, graph.ints(-1, inner, 2))  # [rows, F, 2]
    gate, up = (op.Squeeze(part, graph.ints(2)) for part in op.Split(pairs, axis=2, outputs=2))  # [rows, F]
    gated = CLAMPED_SWIGLU(graph, gate, up, alpha=alpha, limit=limit)
    if front is None:
        return gated
    return op.Reshape(gated, graph.ints(-1, 1, inner) if front == 1 else graph.ints(front, -1, inner))
