"""QuantizedLinear(x, codes, scale, zero_point) {bits, block, inputs, outputs}: x times a weight that is kept as codes.

x [T, inputs] and what the codes mean, a weight [outputs, inputs] as in Dequantize → [T, outputs] at the type of x.
"""

from __future__ import annotations

import onnx_ir as ir

from porter.dialect.dequantize import DEQUANTIZE
from porter.dialect.function import function
from porter.graph import Graph, cast, element_type


@function("QuantizedLinear")
def QUANTIZED_LINEAR(
    graph: Graph,
    x: ir.Value,
    codes: ir.Value,
    scale: ir.Value,
    zero_point: ir.Value | None = None,
    *,
    bits: int,
    block: int | None = None,
    inputs: int,
    outputs: int,
) -> ir.Value:
    """The numbers in float32, rounded once to the type of x; one Gemm with transB, so that nothing is transposed."""
    weight = DEQUANTIZE(graph, codes, scale, zero_point, bits=bits, block=block, shape=(outputs, inputs))
    return graph.op.Gemm(x, cast(graph, weight, element_type(x)), transB=1)
