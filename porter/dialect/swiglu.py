"""SwiGLU(gate, up): silu(gate) * up, elementwise.

ClampedSwiGLU(gate, up) {alpha, limit}: gate * sigmoid(alpha * gate) * (up + 1), both cut off at the limit before.
"""

from __future__ import annotations

import onnx_ir as ir

from porter.dialect.function import function
from porter.graph import Graph, element_type


@function("SwiGLU")
def SWIGLU(graph: Graph, gate: ir.Value, up: ir.Value) -> ir.Value:
    """silu(x) = x * sigmoid(x)."""
    op = graph.op
    return op.Mul(op.Mul(gate, op.Sigmoid(gate)), up)


@function("ClampedSwiGLU")
def CLAMPED_SWIGLU(graph: Graph, gate: ir.Value, up: ir.Value, *, alpha: float, limit: float) -> ir.Value:
    """The gate is cut off above only, `up` on both sides."""
    op, dtype = graph.op, element_type(gate)
    most, least, one, factor = (graph.constant(value, dtype) for value in (limit, -limit, 1.0, alpha))
    gate, up = (op.Where(op.Greater(x, most), most, x) for x in (gate, up))
    up = op.Where(op.Greater(least, up), least, up)
    return op.Mul(op.Mul(gate, op.Sigmoid(op.Mul(gate, factor))), op.Add(up, one))
