"""Route(logits, bias) {scoring, top_k, …}: logits [T, E] float32 → weights [T, K] float32 and experts [T, K] int64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from porter.dialect.function import function
from porter.graph import Graph

EXCLUDED = -3.4028234663852886e38  # the lowest float32: below every score, so never among the best


@dataclass(frozen=True)
class Rule:
    """A router's attributes, as its network states them."""

    experts: int
    scoring: str
    top_k: int
    normalize: int
    scale: float
    epsilon: float
    groups: int
    top_groups: int
    group_score: str
    least: float

    def scores(self, graph: Graph, logits: ir.Value, bias: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        """The scores of all experts [T, E], and what they are chosen by."""
        op = graph.op
        scores = op.Softmax(logits, axis=-1) if self.scoring == "softmax" else op.Sigmoid(logits)
        return scores, scores if bias is None else op.Add(scores, bias)

    def weights(self, graph: Graph, chosen: ir.Value) -> ir.Value:
        """The weights of the chosen experts, from their scores [T, K]."""
        op = graph.op
        if self.normalize:
            total = op.ReduceSum(chosen, graph.ints(-1), keepdims=1)
            total = op.Max(total, _f32(graph, self.least)) if self.least else total
            chosen = op.Div(chosen, op.Add(total, _f32(graph, self.epsilon)) if self.epsilon else total)
        return op.Mul(chosen, _f32(graph, self.scale)) if self.scale != 1.0 else chosen

    def grouped(self, graph: Graph, choice: ir.Value) -> ir.Value:
        grouped: ir.Value = graph.op.Reshape(choice, graph.ints(-1, self.groups, self.experts // self.groups))
        return grouped  # [T, G, E/G]

    def within(self, graph: Graph, grouped: ir.Value, inside: ir.Value) -> ir.Value:
        """The scores of the groups that are inside [T, G, 1], all others below every score: [T, E]."""
        op = graph.op
        kept: ir.Value = op.Reshape(op.Where(inside, grouped, _f32(graph, EXCLUDED)), graph.ints(-1, self.experts))
        return kept


@function("Route", ir.DataType.FLOAT, ir.DataType.INT64, needs=("TopK",))
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
    least: float = 0.0,
) -> tuple[ir.Value, ir.Value]:
    """Scores by `scoring`; the bias steers the choice only; weights are the scores of the chosen experts, divided by
    their sum (or `least`, if that is more) + epsilon where `normalize`, times `scale`.
    """
    op = graph.op
    rule = Rule(experts, scoring, top_k, normalize, scale, epsilon, groups, top_groups, group_score, least)
    scores, choice = rule.scores(graph, logits, bias)
    if groups > 1:
        choice = _within_best_groups(graph, choice, rule)
    _, chosen = op.TopK(choice, graph.ints(top_k), axis=-1)
    return rule.weights(graph, op.GatherElements(scores, chosen, axis=-1)), chosen


@ROUTE.alternative()
def in_rounds(graph: Graph, logits: ir.Value, bias: ir.Value | None, **attributes: Any) -> tuple[ir.Value, ir.Value]:
    """For front ends without TopK: the best is found top_k times, each time without those before."""
    op, rule = graph.op, Rule(**ROUTE.defaults | attributes)
    scores, choice = rule.scores(graph, logits, bias)
    if rule.groups > 1:
        choice = _within_best_groups_in_rounds(graph, choice, rule)
    places = [place for _, place in _rounds(graph, choice, rule.experts, rule.top_k)]
    chosen = op.Cast(_concat(graph, places), to=ir.DataType.INT64)
    # by number, not by the rounds' own hits: whoever puts other experts in their place gets the weights of those
    numbers = graph.constant(range(rule.experts), ir.DataType.INT64)
    hits = op.Equal(op.Unsqueeze(chosen, graph.ints(2)), numbers)  # [T, K, E]
    return rule.weights(graph, _sum_where(graph, hits, op.Unsqueeze(scores, graph.ints(1)), keepdims=0)), chosen


def _within_best_groups(graph: Graph, choice: ir.Value, rule: Rule) -> ir.Value:
    """Excludes the experts outside the `top_groups` best groups; a group's score is its best expert's ("max") or the
    sum of its two best ("top2").
    """
    op = graph.op
    grouped = rule.grouped(graph, choice)
    if rule.group_score == "top2":
        best, _ = op.TopK(grouped, graph.ints(2), axis=-1)
        score = op.ReduceSum(best, graph.ints(-1), keepdims=0)  # [T, G]
    else:
        score = op.ReduceMax(grouped, axes=[-1], keepdims=0)
    _, chosen = op.TopK(score, graph.ints(rule.top_groups), axis=-1)  # [T, top_groups]
    numbers = graph.constant([[n] for n in range(rule.groups)], ir.DataType.INT64)  # [G, 1]
    hit = op.Equal(op.Unsqueeze(chosen, graph.ints(1)), numbers)  # [T, G, top_groups]
    hit = op.ReduceMax(op.Cast(hit, to=ir.DataType.FLOAT), axes=[-1], keepdims=1)  # [T, G, 1]
    return rule.within(graph, grouped, op.Greater(hit, _f32(graph, 0.5)))


def _within_best_groups_in_rounds(graph: Graph, choice: ir.Value, rule: Rule) -> ir.Value:
    """The same without TopK."""
    op = graph.op
    grouped = rule.grouped(graph, choice)
    if rule.group_score == "top2":
        size = rule.experts // rule.groups
        first, second = (_sum_where(graph, hit, grouped, keepdims=0) for hit, _ in _rounds(graph, grouped, size, 2))
        score = op.Add(first, second)  # [T, G]
    else:
        score = op.ReduceMax(grouped, axes=[-1], keepdims=0)
    inside = _f32(graph, 0.0)
    for hit, _ in _rounds(graph, score, rule.groups, rule.top_groups):
        inside = op.Where(hit, _f32(graph, 1.0), inside)  # [T, G]
    inside = op.Greater(op.Reshape(inside, graph.ints(-1, rule.groups, 1)), _f32(graph, 0.5))
    return rule.within(graph, grouped, inside)


def _rounds(graph: Graph, values: ir.Value, size: int, count: int) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The best of values [..., size], `count` times: where it stands, true once in a row, and its index [..., 1] as a
    number in float32, in which such are exact.

    Of equals the first is taken, as TopK does: places count down, so the greatest of those that hold the best is it.
    """
    op = graph.op
    places = graph.constant([float(size - n) for n in range(size)], ir.DataType.FLOAT)
    for _ in range(count):
        best = op.ReduceMax(values, axes=[-1], keepdims=1)
        held = op.Where(op.Equal(values, best), places, _f32(graph, 0.0))
        first = op.ReduceMax(held, axes=[-1], keepdims=1)
        hit = op.Equal(places, first)
        yield hit, op.Sub(_f32(graph, float(size)), first)
        values = op.Where(hit, _f32(graph, EXCLUDED), values)


def _sum_where(graph: Graph, hit: ir.Value, values: ir.Value, keepdims: int) -> ir.Value:
    """The one value of each row that is hit."""
    op = graph.op
    total: ir.Value = op.ReduceSum(op.Where(hit, values, _f32(graph, 0.0)), graph.ints(-1), keepdims=keepdims)
    return total


def _concat(graph: Graph, columns: list[ir.Value]) -> ir.Value:
    joined: ir.Value = graph.op.Concat(*columns, axis=-1) if len(columns) > 1 else columns[0]
    return joined


def _f32(graph: Graph, value: float) -> ir.Value:
    return graph.constant(value, ir.DataType.FLOAT)
