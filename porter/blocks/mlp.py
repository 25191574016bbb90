"""The gated feed-forward block (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

import math

import onnx_ir as ir

from porter.blocks.linear import linear
from porter.blocks.module import Module
from porter.blocks.step import Step
from porter.dialect import SWIGLU
from porter.graph import cast
from porter.layout import ONE_CARD, Layout


class GatedMLP(Module):
    """down(silu(gate(x)) * up(x)).

    Of several cards each has a share of the inner size. The sum of what they give, and the bias behind it, may be left
    `open` to whoever calls.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        bias: bool = False,
        *,
        layout: Layout = ONE_CARD,
        open: bool = False,
    ) -> None:
        inner = layout.divided(intermediate_size, "inner features of an MLP")
        self.gate_proj = linear(hidden_size, intermediate_size, bias, rows=inner)
        self.up_proj = linear(hidden_size, intermediate_size, bias, rows=inner)
        self.down_proj = linear(intermediate_size, hidden_size, bias, columns=inner, open=open)

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        return self.down_proj(step, self.gated(step, self.gate_proj(step, x), self.up_proj(step, x)))

    def gated(self, step: Step, gate: ir.Value, up: ir.Value) -> ir.Value:
        return SWIGLU(step.graph, gate, up)


class GeluGatedMLP(GatedMLP):
    """down(gelu(gate(x)) * up(x)), GELU by its approximation with tanh (Hendrycks and Gimpel, arXiv:1606.08415)."""

    def gated(self, step: Step, gate: ir.Value, up: ir.Value) -> ir.Value:
        graph, op = step.graph, step.graph.op
        wide = cast(graph, gate, ir.DataType.FLOAT)
        cubic, double = (graph.constant(c, ir.DataType.FLOAT) for c in (0.044715, math.sqrt(8 / math.pi)))
        inner = op.Mul(double, op.Add(wide, op.Mul(cubic, op.Mul(wide, op.Mul(wide, wide)))))
        gelu = op.Mul(wide, op.Sigmoid(inner))  # (1 + tanh(z)) / 2 is the sigmoid of 2z
        return op.Mul(cast(graph, gelu, step.dtype), up)
