"""Dequantize(codes, scale, zero_point) {bits, block, shape}: the numbers that codes mean, float32 of this shape.

With 8 bits the codes are int8 [..., K] and the scale is float32 [...]. With 4 the codes are uint8 [..., K / 2], two to a
byte with the earlier one in the low half; scale is float32 and zero_point uint8 [..., K / block], 8 where it is left
out. `shape` is [..., K]; as in Reshape, one of its sizes may be -1.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porter.dialect.function import function
from porter.graph import Graph, cast
from porter.quantize import ZERO

FLOAT = ir.DataType.FLOAT


@function("Dequantize", FLOAT, needs=("DequantizeLinear",))
def DEQUANTIZE(
    graph: Graph,
    codes: ir.Value,
    scale: ir.Value,
    zero_point: ir.Value | None = None,
    *,
    bits: int,
    block: int | None = None,
    shape: Sequence[int],
) -> ir.Value:
    """(code - zero point) * scale, the product in float32: what ONNX says of DequantizeLinear, word for word.

    So a matrix of int8 is that operator; the weight stays as small as it is, since no runtime folds it away.
    """
    if block is None and len(shape) == 2:
        return graph.op.DequantizeLinear(codes, scale, axis=0)
    return in_arithmetic(graph, codes, scale, zero_point, bits=bits, block=block, shape=shape)


@DEQUANTIZE.alternative()
def in_arithmetic(
    graph: Graph,
    codes: ir.Value,
    scale: ir.Value,
    zero_point: ir.Value | None = None,
    *,
    bits: int,
    block: int | None = None,
    shape: Sequence[int],
) -> ir.Value:
    """In float32, where every code is exact: integer arithmetic on bytes is what front ends lack."""
    op, wide = graph.op, cast(graph, codes, FLOAT)
    if bits == 4:
        wide = _unpacked(graph, _column(graph, wide))
    wide = op.Reshape(wide, graph.ints(-1, block or shape[-1]))  # [blocks, together]
    if bits == 4:
        zero = graph.constant(ZERO, FLOAT) if zero_point is None else _column(graph, cast(graph, zero_point, FLOAT))
        wide = op.Sub(wide, zero)
    return op.Reshape(op.Mul(wide, _column(graph, scale)), graph.ints(*shape))


def _unpacked(graph: Graph, pairs: ir.Value) -> ir.Value:
    """Bytes [n, 1] as two numbers each [n, 2]; neither shifts nor masks, which few front ends take."""
    op, sixteen = graph.op, graph.constant(16, FLOAT)
    high = op.Floor(op.Div(pairs, sixteen))
    low = op.Sub(pairs, op.Mul(high, sixteen))
    return op.Concat(low, high, axis=1)


def _column(graph: Graph, value: ir.Value) -> ir.Value:
    return graph.op.Reshape(value, graph.ints(-1, 1))
