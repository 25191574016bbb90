"""The gated feed-forward block (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

import onnx_ir as ir

from porter.blocks.linear import linear
from porter.blocks.module import Module
from porter.blocks.step import Step
from porter.dialect import SWIGLU
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
        gated = SWIGLU(step.graph, self.gate_proj(step, x), self.up_proj(step, x))
        return self.down_proj(step, gated)
