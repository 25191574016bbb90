"""How a cache takes new tokens in.

CacheUpdate(cache, new): cache [B, G, past, D] and new [B, G, S, D] → [B, G, past + S, D].
CacheWrite(cache, new, positions, places) {one}: cache [B, G, C, D], new [B, G, S, D], positions int64 [B, S] and places
0 … C - 1, int64 [C] → [B, G, C, D]; `one` where S is 1. A position may come twice if it brings the same numbers.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from porter.dialect.function import function
from porter.graph import Graph, width


@function("CacheUpdate")
def CACHE_UPDATE(graph: Graph, cache: ir.Value, new: ir.Value) -> ir.Value:
    """A growing cache: the new places behind the past ones."""
    return graph.op.Concat(cache, new, axis=2)


@function("CacheWrite", when=lambda attributes: bool(attributes["one"]))
def CACHE_WRITE(
    graph: Graph, cache: ir.Value, new: ir.Value, positions: ir.Value, places: ir.Value, *, one: int
) -> ir.Value:
    """One token in the place of its position: chosen place by place, which is exact and needs nothing rare."""
    op = graph.op

    def here() -> ir.Value:
        return op.Equal(op.Unsqueeze(places, graph.ints(1)), op.Unsqueeze(positions, graph.ints(1, 3)))  # [B, 1, C, 1]

    return op.Where(graph.once(("here", positions, places), here), new, cache)


@CACHE_WRITE.alternative("ScatterND")
def scatter_rows(
    graph: Graph, cache: ir.Value, new: ir.Value, positions: ir.Value, places: ir.Value, *, one: int
) -> ir.Value:
    """Rows of the cache by their numbers: one index a row, which is the plainest scatter that there is."""
    op, (batch, groups, size) = graph.op, (width(cache, axis) for axis in (0, 1, 3))

    def rows() -> ir.Value:
        numbers = op.Add(_starts(graph, batch, groups, places, 0), op.Unsqueeze(positions, graph.ints(1)))  # [B, G, S]
        return op.Reshape(numbers, graph.ints(-1, 1))  # [B * G * S, 1]

    numbers = graph.once(("rows", positions, places, groups), rows)
    flat = graph.ints(-1, size)
    written = op.ScatterND(op.Reshape(cache, flat), numbers, op.Reshape(new, flat))  # [B * G * C, D]
    return op.Reshape(written, graph.ints(batch, groups, -1, size))


@CACHE_WRITE.alternative()
def gather_rows(
    graph: Graph, cache: ir.Value, new: ir.Value, positions: ir.Value, places: ir.Value, *, one: int
) -> ir.Value:
    """Without a scatter: each place takes the first token that is meant for it, or keeps what it has."""
    op, (batch, groups, size) = graph.op, (width(cache, axis) for axis in (0, 1, 3))

    def meant() -> tuple[ir.Value, ir.Value]:
        hits = op.Equal(op.Unsqueeze(places, graph.ints(1)), op.Unsqueeze(positions, graph.ints(1)))  # [B, C, S]
        hits = op.Cast(hits, to=ir.DataType.FLOAT)
        taken = op.Cast(op.ReduceMax(hits, axes=[2], keepdims=1), to=ir.DataType.BOOL)  # [B, C, 1]
        last, countdown = _countdown(graph, positions)
        first = op.Sub(last, op.ReduceMax(op.Mul(hits, countdown), axes=[2], keepdims=0))  # [B, C]
        first = op.Unsqueeze(op.Cast(first, to=ir.DataType.INT64), graph.ints(1))  # [B, 1, C]
        numbers = op.Add(_starts(graph, batch, groups, positions, 1), first)  # [B, G, C]
        return op.Unsqueeze(taken, graph.ints(1)), numbers

    taken, numbers = graph.once(("meant", positions, places, groups), meant)
    rows = op.Gather(op.Reshape(new, graph.ints(-1, size)), numbers, axis=0)  # [B, G, C, D]
    return op.Where(taken, rows, cache)


def _countdown(graph: Graph, positions: ir.Value) -> tuple[ir.Value, ir.Value]:
    """S - 1, and the numbers from there down to 0 in float32, in which they are exact: the first hit counts most."""
    op, count = graph.op, positions.shape[1] if positions.shape is not None else None
    if isinstance(count, int):
        numbers = range(count - 1, -1, -1)
        return graph.constant(count - 1, ir.DataType.FLOAT), graph.constant(numbers, ir.DataType.FLOAT)
    one, minus = graph.constant(1, ir.DataType.INT64), graph.constant(-1, ir.DataType.INT64)
    last = op.Sub(op.Gather(op.Shape(positions), one, axis=0), one)
    return op.Cast(last, to=ir.DataType.FLOAT), op.Cast(op.Range(last, minus, minus), to=ir.DataType.FLOAT)


def _starts(graph: Graph, batch: int, groups: int, of: ir.Value, axis: int) -> ir.Value:
    """The number of the first row of each head, where a head has as many rows as `of` is long: [B, G, 1]."""
    heads = np.arange(batch * groups).reshape(batch, groups, 1)
    rows = of.shape[axis] if of.shape is not None else None
    if isinstance(rows, int):
        return graph.constant(heads * rows, ir.DataType.INT64)
    size = graph.op.Gather(graph.op.Shape(of), graph.constant(axis, ir.DataType.INT64), axis=0)  # scalar
    return graph.op.Mul(graph.constant(heads, ir.DataType.INT64), size)
