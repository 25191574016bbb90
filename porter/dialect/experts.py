"""Experts(x, weights, experts, gate_up, down) {top_k}: every token through its chosen experts, weighted and summed.

x [T, D], weights [T, K] float32, experts [T, K] int64 (distinct in a row), gate_up [E, 2F, D], down [E, D, F] → [T, D].
Where T is known, `few` says whether the T * K experts chosen are no more than there are.
With {bits, block} gate_up and down are codes, and four more inputs are the scales and zero points of each, as in
Dequantize: what a body reads is gathered first and decoded then.
With {offset} E counts the experts from that number on; the others are on other cards, and add nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from porter.dialect.dequantize import DEQUANTIZE
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


def _open(attributes: Mapping[str, Any]) -> bool:
    """Whether the number of tokens shows in a call only."""
    return attributes.get("few") is None


@function("Experts", needs=("Loop", "NonZero"), when=_open)
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
    """A Loop over the experts that were hit: only their weights are read, only their tokens computed.

    Each round adds to the rows of its tokens by Gather, Add and ScatterND: a token meets an expert once, so no
    reduction is needed, which some importers drop silently.
    """
    op = graph.op
    scales = (gate_up_scale, gate_up_zero_point, down_scale, down_zero_point)
    first, second = _stacks(gate_up, down, scales, element_type(x), bits, block)
    experts = _here(graph, experts, offset)
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
        hidden = op.Gemm(rows, first.at(graph, expert), transB=1)  # [n, 2F]
        hidden = SWIGLU(graph, *op.Split(hidden, axis=-1, outputs=2))  # [n, F]
        result = op.Gemm(hidden, second.at(graph, expert), transB=1)  # [n, D]
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


@EXPERTS.alternative("If", when=_open)
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
    """For front ends without Loop: gathers the weights that each token needs where that reads no
    more than all experts (decode), else multiplies by all of them and keeps what was chosen (prefill).
    """
    op = graph.op
    tokens = op.Gather(op.Shape(x), graph.constant(0, ir.DataType.INT64), axis=0)
    small = op.LessOrEqual(tokens, graph.constant(width(gate_up, 0) // top_k, ir.DataType.INT64))

    def through(body: Callable[..., ir.Value]) -> ir.Graph:
        inputs = (x, weights, experts, gate_up, down, *scales)
        return graph.subgraph([], lambda: [body(graph, *inputs, top_k=top_k, offset=offset, bits=bits, block=block)])

    then_branch, else_branch = through(gather_chosen), through(multiply_all)
    return op.If(small, then_branch=then_branch, else_branch=else_branch, outputs=1)


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
    results = cast(graph, op.Reshape(results, graph.ints(-1, top_k, hidden_size)), ir.DataType.FLOAT)  # [T, K, D]
    results = op.Mul(results, op.Unsqueeze(weights, graph.ints(2)))
    return cast(graph, op.ReduceSum(results, graph.ints(1), keepdims=0), element_type(x))


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
    numbers = graph.constant([[[n]] for n in range(count)], ir.DataType.INT64)  # [E, 1, 1]
    chosen = op.Cast(op.Equal(numbers, _here(graph, experts, offset)), to=ir.DataType.FLOAT)  # [E, T, K]
    share = op.ReduceSum(op.Mul(chosen, weights), graph.ints(2), keepdims=0)  # [E, T]
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


def _active(graph: Graph, experts: ir.Value, count: int) -> ir.Value:
    """The experts that any token chose, ascending: int64 [A]."""
    op = graph.op
    numbers = graph.constant([[n] for n in range(count)], ir.DataType.INT64)  # [E, 1]
    hit = op.Equal(op.Reshape(experts, graph.ints(1, -1)), numbers)  # [E, T*K]
    hit = op.ReduceMax(op.Cast(hit, to=ir.DataType.FLOAT), axes=[1], keepdims=0)  # [E]
    return op.Reshape(op.NonZero(hit), graph.ints(-1))
