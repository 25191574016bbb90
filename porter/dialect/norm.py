"""RMSNorm(x, weight) {epsilon}: x [..., D], weight [D]."""

from __future__ import annotations

import onnx_ir as ir

from porter.dialect.function import function
from porter.graph import Graph, cast, element_type


@function("RMSNorm")
def RMS_NORM(graph: Graph, x: ir.Value, weight: ir.Value, *, epsilon: float) -> ir.Value:
    """Statistics in float32; Div by Sqrt, because not every front end has Reciprocal."""
    op = graph.op
    wide = cast(graph, x, ir.DataType.FLOAT)
    mean = op.ReduceMean(op.Mul(wide, wide), axes=[-1], keepdims=1)
    scaled = op.Div(wide, op.Sqrt(op.Add(mean, graph.constant(epsilon, ir.DataType.FLOAT))))
    return op.Mul(cast(graph, scaled, element_type(x)), weight)
