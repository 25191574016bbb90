"""Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

import onnx_ir as ir

from porter.blocks.module import Module, Parameter
from porter.blocks.step import Step
from porter.dialect import RMS_NORM
from porter.graph import cast


class RMSNorm(Module):
    """x / sqrt(mean(x²) + epsilon) * weight over the last axis, statistics in float32."""

    def __init__(self, width: int, epsilon: float) -> None:
        self.weight = Parameter((width,))
        self.epsilon = epsilon

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        return RMS_NORM(step.graph, x, self.weight.value(step.graph, step.dtype), epsilon=self.epsilon)


class OffsetRMSNorm(RMSNorm):
    """The same times 1 + weight, all of it in float32 and rounded once (Gemma)."""

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        graph, wide = step.graph, ir.DataType.FLOAT
        gain = cast(graph, self.weight.value(graph, step.dtype), wide)
        gain = graph.op.Add(gain, graph.constant(1.0, wide))
        return cast(graph, RMS_NORM(graph, cast(graph, x, wide), gain, epsilon=self.epsilon), step.dtype)
