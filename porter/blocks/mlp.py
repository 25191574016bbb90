"""The gated feed-forward block (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

import onnx_ir as ir

from porter.blocks.linear import linear
from porter.blocks.module import Module
from porter.blocks.step import Step
from porter.dialect import SWIGLU


class GatedMLP(Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int, bias: bool = False) -> None:
        self.gate_proj = linear(hidden_size, intermediate_size, bias)
        self.up_proj = linear(hidden_size, intermediate_size, bias)
        self.down_proj = linear(intermediate_size, hidden_size, bias)

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        gated = SWIGLU(step.graph, self.gate_proj(step, x), self.up_proj(step, x))
        return self.down_proj(step, gated)
