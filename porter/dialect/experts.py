"""Experts(x, weights, experts, gate_up, down) {top_k}: every token through its chosen experts, weighted and summed.

x [T, D], weights [T, K] float32, experts [T, K] int64 (distinct in a row), gate_up [E, 2F, D], down [E, D, F] → [T, D].
Where T is known, `few` says whether the T * K experts chosen are no more than there are.
With {bits, block} gate_up and down are codes, and four more inputs are the scales and zero points of each, as in
Dequantize: what a body reads is gathered first and decoded then.
With {offset} E counts the experts from that number on; the others are on other cards, and add nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from porter.dialect.dequantize import DEQUANTIZE
from porter.dialect.dispatch import few_else_all, loop_over_active, shares, summed_by_token, when_open
from porter.dialect.function import function
from porter.dialect.swiglu import SWIGLU
from porter.graph import Graph, cast, element_type, width


@dataclass(frozen=True)
class Stack:
    """A weight of every expert: numbers [E, N, K], or codes of this many bits with scales and perhaps zero points."""

    values: ir.Value
    scale: ir.Value | None
    zero_point: ir.Value | None
    dtype: ir.DataType
    bits: int | None
    block: int | None

    def all(self, graph: Graph) -> ir.Value:
        """Every expert's numbers [E, N, K]."""
        return self._numbers(graph, (self.values, self.scale, self.zero_point), width(self.values, 0))

    def at(self, graph: Graph, experts: ir.Value, *front: int) -> ir.Value:
        """The numbers of some experts [*front, N, K], by an index of the shape `front`; one size may be -1."""
        parts = (self.values, self.scale, self.zero_point)
        picked = [None if part is None else graph.op.Gather(part, experts, axis=0) for part in parts]
        return self._numbers(graph, picked, *front)

    def _numbers(self, graph: Graph, parts: Sequence[ir.Value | None], *front: int) -> Any:
        if self.bits is None or self.scale is None:
            return parts[0]
        shape = (*front, width(self.values, 1), width(self.values, 2) * (8 // self.bits))
        return cast(graph, DEQUANTIZE(graph, *parts, bits=self.bits, block=self.block, shape=shape), self.dtype)


@function("Experts", needs=("Loop", "NonZero"), when=when_open)
def EXPERTS(
    graph: Graph,
    x: ir.Value,
    weights: ir.Value,
    experts: ir.Value,
    gate_up: ir.Value,
    down: ir.Value,
    gate_up_scale: ir.Value | None = None,
    gate_up_zero_point: ir.Value | None = None,
    down_scale: ir.Value | None = None,
    down_zero_point: ir.Value | None = None,
    *,
    top_k: int,
    few: int | None = None,
    offset: int | None = None,
    bits: int | None = None,
    block: int | None = None,
) -> ir.Value:
    """A Loop over the experts that were hit."""
    op = graph.op
    scales = (gate_up_scale, gate_up_zero_point, down_scale, down_zero_point)
    first, second = _stacks(gate_up, down, scales, element_type(x), bits, block)

    def expert_of(expert: ir.Value, rows: ir.Value) -> ir.Value:
        hidden = op.Gemm(rows, first.at(graph, expert), transB=1)  # [n, 2F]
        hidden = SWIGLU(graph, *op.Split(hidden, axis=-1, outputs=2))  # [n, F]
        return op.Gemm(hidden, second.at(graph, expert), transB=1)  # [n, D]

    return loop_over_active(graph, x, weights, _here(graph, experts, offset), width(gate_up, 0), expert_of)


@EXPERTS.alternative("If", when=when_open)
def gather_few_else_all(
    graph: Graph,
    x: ir.Value,
    weights: ir.Value,
    experts: ir.Value,
    gate_up: ir.Value,
    down: ir.Value,
    *scales: ir.Value | None,
    top_k: int,
    few: int | None = None,
    offset: int | None = None,
    bits: int | None = None,
    block: int | None = None,
) -> ir.Value:
    """For front ends without Loop."""

    def through(body: Callable[..., ir.Value]) -> Callable[[], ir.Value]:
        inputs = (x, weights, experts, gate_up, down, *scales)
        return lambda: body(graph, *inputs, top_k=top_k, offset=offset, bits=bits, block=block)

    return few_else_all(graph, x, width(gate_up, 0) // top_k, through(gather_chosen), through(multiply_all))


@EXPERTS.alternative(when=lambda attributes: bool(attributes.get("few")))
def gather_chosen(
    graph: Graph,
    x: ir.Value,
    weights: ir.Value,
    experts: ir.Value,
    gate_up: ir.Value,
    down: ir.Value,
    *scales: ir.Value | None,
    top_k: int,
    few: int | None = None,
    offset: int | None = None,
    bits: int | None = None,
    block: int | None = None,
) -> ir.Value:
    """One copy of an expert's weights per token and choice: T * K of them."""
    op, hidden_size = graph.op, width(down, 1)
    first, second = _stacks(gate_up, down, scales, element_type(x), bits, block)
    if offset is not None:
        experts, weights = _within(graph, _here(graph, experts, offset), weights, width(gate_up, 0))
    chosen = op.Reshape(experts, graph.ints(-1))  # [T*K]
    rows = op.Tile(op.Unsqueeze(x, graph.ints(1)), graph.ints(1, top_k, 1))  # [T, K, D]
    rows = op.Reshape(rows, graph.ints(-1, hidden_size, 1))  # [T*K, D, 1]
    hidden = op.MatMul(first.at(graph, chosen, -1), rows)  # [T*K, 2F, 1]
    hidden = SWIGLU(graph, *op.Split(hidden, axis=1, outputs=2))  # [T*K, F, 1]
    results = op.MatMul(second.at(graph, chosen, -1), hidden)  # [T*K, D, 1]
    return summed_by_token(graph, results, weights, top_k, hidden_size, element_type(x))


@EXPERTS.alternative()
def multiply_all(
    graph: Graph,
    x: ir.Value,
    weights: ir.Value,
    experts: ir.Value,
    gate_up: ir.Value,
    down: ir.Value,
    *scales: ir.Value | None,
    top_k: int,
    few: int | None = None,
    offset: int | None = None,
    bits: int | None = None,
    block: int | None = None,
) -> ir.Value:
    """Every token through every expert. The weights stand on the left, so that none is transposed."""
    op, count = graph.op, width(gate_up, 0)
    first, second = _stacks(gate_up, down, scales, element_type(x), bits, block)
    hidden = op.MatMul(first.all(graph), op.Transpose(x, perm=[1, 0]))  # [E, 2F, T]
    hidden = SWIGLU(graph, *op.Split(hidden, axis=1, outputs=2))  # [E, F, T]
    results = cast(graph, op.MatMul(second.all(graph), hidden), ir.DataType.FLOAT)  # [E, D, T]
    share = shares(graph, _here(graph, experts, offset), weights, count, keepdims=0)  # [E, T]
    total = op.ReduceSum(op.Mul(results, op.Unsqueeze(share, graph.ints(1))), graph.ints(0), keepdims=0)  # [D, T]
    return cast(graph, op.Transpose(total, perm=[1, 0]), element_type(x))


def _stacks(
    gate_up: ir.Value,
    down: ir.Value,
    scales: Sequence[ir.Value | None],
    dtype: ir.DataType,
    bits: int | None,
    block: int | None,
) -> tuple[Stack, Stack]:
    first_scale, first_zero, second_scale, second_zero = scales or (None,) * 4
    first = Stack(gate_up, first_scale, first_zero, dtype, bits, block)
    return first, Stack(down, second_scale, second_zero, dtype, bits, block)


def _here(graph: Graph, experts: ir.Value, offset: int | None) -> ir.Value:
    """The numbers of experts as this card counts them: what it does not have lies outside."""
    return experts if offset is None else graph.op.Sub(experts, graph.constant(offset, ir.DataType.INT64))


def _within(graph: Graph, experts: ir.Value, weights: ir.Value, count: int) -> tuple[ir.Value, ir.Value]:
    """Experts that can be gathered, with the weight zero for those that are another card's: [T, K] each."""
    op, zero, after = graph.op, graph.constant(0, ir.DataType.INT64), graph.constant(count, ir.DataType.INT64)
    mine = op.And(op.LessOrEqual(zero, experts), op.Less(experts, after))
    return op.Where(mine, experts, zero), op.Where(mine, weights, graph.constant(0.0, ir.DataType.FLOAT))
