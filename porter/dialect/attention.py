"""Attention(q, k, v, mask) {heads, groups, key_dim, value_dim, scale, one}.

q [B, H, S, D], k [B, G, T, D], v [B, G, T, V], mask bool [B, 1, S, T] → [B, H, S, V]; `one` where S is known to be 1.

SinkAttention(q, k, v, mask, sinks) {…}: sinks [H], a score that each head's keys stand beside.
CappedAttention(q, k, v, mask) {…, cap}: the same with scores of cap * tanh(score / cap).
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from porter.dialect.function import function
from porter.graph import Graph, cast, element_type

HIDDEN = -3.4028234663852886e38  # the lowest float32: exp of it is zero, and a row that sees nothing stays finite


@function("Attention")
def ATTENTION(
    graph: Graph,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    mask: ir.Value,
    *,
    heads: int,
    groups: int,
    key_dim: int,
    value_dim: int,
    scale: float,
    one: int = 0,
) -> ir.Value:
    """softmax(q·k * scale where mask) · v → [B, H, S, V], softmax in float32.

    The heads of a group are folded into its sequence, so that both MatMuls have equal batch dimensions and no key or
    value is repeated. Every Reshape has constant targets: 0 copies a dimension, -1 is the only one to be found.
    """
    return _mixed(
        graph, q, k, v, mask, (heads, groups, key_dim, value_dim), one, lambda scores: _scaled(graph, scores, scale)
    )


@function("CappedAttention")
def CAPPED_ATTENTION(
    graph: Graph,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    mask: ir.Value,
    *,
    heads: int,
    groups: int,
    key_dim: int,
    value_dim: int,
    scale: float,
    cap: float,
    one: int = 0,
) -> ir.Value:
    """The same, with scores that never pass the cap."""

    def capped(scores: ir.Value) -> ir.Value:
        most = graph.constant(cap, ir.DataType.FLOAT)
        return graph.op.Mul(graph.op.Tanh(graph.op.Div(_scaled(graph, scores, scale), most)), most)

    return _mixed(graph, q, k, v, mask, (heads, groups, key_dim, value_dim), one, capped)


@function("SinkAttention")
def SINK_ATTENTION(
    graph: Graph,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    mask: ir.Value,
    sinks: ir.Value,
    *,
    heads: int,
    groups: int,
    key_dim: int,
    value_dim: int,
    scale: float,
    one: int = 0,
) -> ir.Value:
    """The same with one more score in each head's softmax, whose weight goes nowhere: weights sum to less than one."""
    op = graph.op
    by_group = one and heads != groups
    shape = (1, groups, heads // groups, 1) if by_group else (1, heads, 1, 1)
    sink = op.Reshape(cast(graph, sinks, ir.DataType.FLOAT), graph.ints(*shape))

    def sunk(scores: ir.Value) -> ir.Value:
        most = op.ReduceMax(scores, axes=[-1], keepdims=1)
        most = op.Where(op.Greater(most, sink), most, sink)  # of all scores, the sink's too
        powers = op.Exp(op.Sub(scores, most))
        total = op.Add(op.ReduceSum(powers, graph.ints(-1), keepdims=1), op.Exp(op.Sub(sink, most)))
        return op.Div(powers, total)

    sizes = (heads, groups, key_dim, value_dim)
    return _mixed(graph, q, k, v, mask, sizes, one, lambda scores: _scaled(graph, scores, scale), sunk)


def _scaled(graph: Graph, scores: ir.Value, scale: float) -> ir.Value:
    """In float32: a scale rounded to a narrow dtype would be another model."""
    return graph.op.Mul(cast(graph, scores, ir.DataType.FLOAT), graph.constant(scale, ir.DataType.FLOAT))


def _mixed(
    graph: Graph,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    mask: ir.Value,
    sizes: tuple[int, int, int, int],
    one: int,
    score: Callable[[ir.Value], ir.Value],
    soften: Callable[[ir.Value], ir.Value] | None = None,
) -> ir.Value:
    """Values mixed by the softmax, or what else `soften` is, of what `score` makes of q·k."""
    op, (heads, groups, key_dim, value_dim) = graph.op, sizes
    folded = heads != groups
    unfold = folded and not one  # a single query's mask fits every head of its group as it is
    if folded:
        q = op.Reshape(q, graph.ints(0, groups, -1, key_dim))  # [B, G, H/G*S, D]
    scores = op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2]))  # [B, G, H/G*S, T]
    if unfold:
        scores = op.Reshape(scores, graph.ints(0, heads, -1, 0))  # [B, H, S, T]
    scores = op.Where(mask, score(scores), graph.constant(HIDDEN, ir.DataType.FLOAT))
    weights = cast(graph, soften(scores) if soften else op.Softmax(scores, axis=-1), element_type(v))
    if not folded:
        return op.MatMul(weights, v)
    if unfold:
        weights = op.Reshape(weights, graph.ints(0, groups, -1, 0))  # [B, G, H/G*S, T]
    return op.Reshape(op.MatMul(weights, v), graph.ints(0, heads, -1, value_dim))  # [B, H, S, V]
