"""Choose(scores, mask) {top_k, total}: scores [B, 1, S, T] float32, mask bool [B, 1, S, T] → bool [B, 1, S, T]; `total`
is T where it is known.
"""

from __future__ import annotations

import onnx_ir as ir

from porter.dialect.function import function
from porter.graph import Graph

UNSEEN = -3.4028234663852886e38  # the lowest float32: below every score
FIRST = -1.0  # before every place; as numbers in float32 those of 2²⁴ keys are exact


@function("Choose", ir.DataType.BOOL, needs=("TopK",))
def CHOOSE(graph: Graph, scores: ir.Value, mask: ir.Value, *, top_k: int, total: int | None = None) -> ir.Value:
    """Of the keys that the mask shows, the `top_k` of the best score, or all where there are no more.

    Of equal scores the first keys are taken, as TopK does. Nothing is scattered: a key is among the best where its
    score is above the last of them, or equal to it at a place no later than the last one taken.
    """
    op = graph.op
    scores = op.Where(mask, scores, _f32(graph, UNSEEN))
    if total is None:
        zero, one = graph.constant(0, ir.DataType.INT64), graph.constant(1, ir.DataType.INT64)
        size = op.Gather(op.Shape(scores), graph.constant(3, ir.DataType.INT64), axis=0)  # scalar
        numbers = op.Cast(op.Range(zero, size, one), to=ir.DataType.FLOAT)
        offered = op.Concat(scores, _nothing(graph, scores, top_k), axis=-1)  # so that k need not be computed
    else:
        numbers, offered = graph.constant([float(n) for n in range(total)], ir.DataType.FLOAT), scores
    count = top_k if total is None else min(top_k, total)
    best, chosen = op.TopK(offered, graph.ints(count), axis=-1, outputs=2)  # [B, 1, S, K]
    least = op.Neg(op.ReduceMax(op.Neg(best), axes=[-1], keepdims=1))  # [B, 1, S, 1]
    tied = op.Where(op.Equal(best, least), op.Cast(chosen, to=ir.DataType.FLOAT), _f32(graph, FIRST))
    last = op.ReduceMax(tied, axes=[-1], keepdims=1)
    equal = op.And(op.Equal(scores, least), op.LessOrEqual(numbers, last))
    taken = op.And(mask, op.Or(op.Greater(scores, least), equal))
    # sizes that only a call shows are lost on the way, and some front ends compare those of a MatMul's inputs
    return op.Reshape(taken, op.Shape(mask)) if total is None else taken


def _nothing(graph: Graph, scores: ir.Value, count: int) -> ir.Value:
    """`count` keys that nobody sees: [B, 1, S, count]."""
    op = graph.op
    any_score = op.ReduceMax(scores, axes=[-1], keepdims=1)  # [B, 1, S, 1]
    row = graph.constant([UNSEEN] * count, ir.DataType.FLOAT)
    return op.Where(op.Equal(any_score, any_score), row, _f32(graph, UNSEEN))


def _f32(graph: Graph, value: float) -> ir.Value:
    return graph.constant(value, ir.DataType.FLOAT)
