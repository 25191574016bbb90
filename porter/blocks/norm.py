"""Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

import onnx_ir as ir

from porter.blocks.module import Module, Parameter
from porter.blocks.step import Step
from porter.dialect import RMS_NORM


class RMSNorm(Module):
    """x / sqrt(mean(x²) + epsilon) * weight over the last axis, statistics in float32."""

    def __init__(self, width: int, epsilon: float) -> None:
        self.weight = Parameter((width,))
        self.epsilon = epsilon

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        return RMS_NORM(step.graph, x, self.weight.value(step.graph, step.dtype), epsilon=self.epsilon)
