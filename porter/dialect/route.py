"""Route(logits, bias) {scoring, top_k, …}: logits [T, E] float32 → weights [T, K] float32 and experts [T, K] int64."""

from __future__ import annotations

import onnx_ir as ir

from porter.dialect.function import function
from porter.graph import Graph

EXCLUDED = -3.4028234663852886e38  # the lowest float32: below every score, so never among the best


@function("Route", ir.DataType.FLOAT, ir.DataType.INT64)
def ROUTE(
    graph: Graph,
    logits: ir.Value,
    bias: ir.Value | None,
    *,
    experts: int,
    scoring: str,
    top_k: int,
    normalize: int,
    scale: float,
    epsilon: float = 0.0,
    groups: int = 1,
    top_groups: int = 1,
    group_score: str = "",
) -> tuple[ir.Value, ir.Value]:
    """Scores by `scoring`; the bias steers the choice only; weights are the scores of the chosen experts, divided by
    their sum + epsilon where `normalize`, times `scale`.
    """
    op = graph.op
    scores = op.Softmax(logits, axis=-1) if scoring == "softmax" else op.Sigmoid(logits)
    choice = scores if bias is None else op.Add(scores, bias)
    if groups > 1:
        choice = _within_best_groups(graph, choice, experts, groups, top_groups, group_score)
    _, chosen = op.TopK(choice, graph.ints(top_k), axis=-1)
    weights = op.GatherElements(scores, chosen, axis=-1)
    if normalize:
        total = op.ReduceSum(weights, graph.ints(-1), keepdims=1)
        weights = op.Div(weights, op.Add(total, _f32(graph, epsilon)) if epsilon else total)
    if scale != 1.0:
        weights = op.Mul(weights, _f32(graph, scale))
    return weights, chosen


def _within_best_groups(
    graph: Graph, choice: ir.Value, experts: int, groups: int, top_groups: int, group_score: str
) -> ir.Value:
    """Excludes the experts outside the `top_groups` best groups; a group's score is its best expert's ("max") or the
    sum of its two best ("top2").
    """
    op = graph.op
    grouped = op.Reshape(choice, graph.ints(-1, groups, experts // groups))  # [T, G, E/G]
    if group_score == "top2":
        best, _ = op.TopK(grouped, graph.ints(2), axis=-1)
        score = op.ReduceSum(best, graph.ints(-1), keepdims=0)  # [T, G]
    else:
        score = op.ReduceMax(grouped, axes=[-1], keepdims=0)
    _, chosen = op.TopK(score, graph.ints(top_groups), axis=-1)  # [T, top_groups]
    numbers = graph.constant([[n] for n in range(groups)], ir.DataType.INT64)  # [G, 1]
    hit = op.Equal(op.Unsqueeze(chosen, graph.ints(1)), numbers)  # [T, G, top_groups]
    hit = op.ReduceMax(op.Cast(hit, to=ir.DataType.FLOAT), axes=[-1], keepdims=1)  # [T, G, 1]
    inside = op.Greater(hit, _f32(graph, 0.5))
    return op.Reshape(op.Where(inside, grouped, _f32(graph, EXCLUDED)), graph.ints(-1, experts))


def _f32(graph: Graph, value: float) -> ir.Value:
    return graph.constant(value, ir.DataType.FLOAT)
