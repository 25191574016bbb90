"""SwiGLU(gate, up): silu(gate) * up, elementwise."""

from __future__ import annotations

import onnx_ir as ir

from porter.dialect.function import function
from porter.graph import Graph


@function("SwiGLU")
def SWIGLU(graph: Graph, gate: ir.Value, up: ir.Value) -> ir.Value:
    """silu(x) = x * sigmoid(x)."""
    op = graph.op
    return op.Mul(op.Mul(gate, op.Sigmoid(gate)), up)
