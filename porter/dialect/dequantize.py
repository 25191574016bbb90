"""Dequantize(codes, scale, zero_point) {bits, block, shape}: the numbers that codes mean, float32 of this shape.

With 8 bits the codes are int8 [..., K] and the scale is float32 [...]. With 4 the codes are uint8 [..., K / 2], two to
a byte with the earlier one in the low half; scale is float32 and zero_point uint8 [..., K / block], 8 where it is left
out. `shape` is [..., K]; as in Reshape, one of its sizes may be -1.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porter.dialect.function import function
from porter.graph import Graph, cast
from porter.quantize import ZERO

FLOAT = ir.DataType.FLOAT


@function("Dequantize", FLOAT, needs=("DequantizeLinear",), opset=13)  # axis came with 13
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

    So a matrix of int8 is that operator, and blocks are the rows of another. ONNX Runtime does not fold it away:
    what it holds in memory are bytes.
    """
    op = graph.op
    if block is None and len(shape) == 2:
        return op.DequantizeLinear(codes, scale, axis=0)
    if bits == 4:
        symmetric = zero_point is None
        codes = _unpacked(graph, codes, symmetric, ir.DataType.INT8 if symmetric else ir.DataType.UINT8)
    zeros = [] if zero_point is None else [op.Reshape(zero_point, graph.ints(-1))]
    rows, scales = op.Reshape(codes, graph.ints(-1, block or shape[-1])), op.Reshape(scale, graph.ints(-1))
    return op.Reshape(op.DequantizeLinear(rows, scales, *zeros, axis=0), graph.ints(*shape))


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
    op = graph.op
    numbers = cast(graph, codes, FLOAT) if bits == 8 else _unpacked(graph, codes, zero_point is None, FLOAT)
    numbers = op.Reshape(numbers, graph.ints(-1, block or shape[-1]))  # those that share a scale
    if zero_point is not None:
        numbers = op.Sub(numbers, _column(graph, cast(graph, zero_point, FLOAT)))
    return op.Reshape(op.Mul(numbers, _column(graph, scale)), graph.ints(*shape))


def _unpacked(graph: Graph, codes: ir.Value, symmetric: bool, dtype: ir.DataType) -> ir.Value:
    """Bytes [...] as the two codes that each of them holds [..., 2], looked up, since few front ends shift or mask;
    symmetric ones less their zero point.
    """
    zero = ZERO if symmetric else 0
    pairs = [[byte % 16 - zero, byte // 16 - zero] for byte in range(256)]
    return graph.op.Gather(graph.constant(pairs, dtype), graph.op.Cast(codes, to=ir.DataType.INT32), axis=0)


def _column(graph: Graph, value: ir.Value) -> ir.Value:
    return graph.op.Reshape(value, graph.ints(-1, 1))
