"""Normalisation: by the root mean square (Zhang and Sennrich 2019, arXiv:1910.07467), and by mean and variance."""

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


class LayerNorm(Module):
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis (Ba et al. 2016, arXiv:1607.06450),
    statistics in float32.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        self.weight, self.bias = Parameter((width,)), Parameter((width,))
        self.epsilon = epsilon

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        graph, op = step.graph, step.graph.op
        wide = cast(graph, x, ir.DataType.FLOAT)
        centred = op.Sub(wide, op.ReduceMean(wide, axes=[-1], keepdims=1))
        variance = op.ReduceMean(op.Mul(centred, centred), axes=[-1], keepdims=1)
        scaled = op.Div(centred, op.Sqrt(op.Add(variance, graph.constant(self.epsilon, ir.DataType.FLOAT))))
        weight, bias = (p.value(graph, step.dtype) for p in (self.weight, self.bias))
        return op.Add(op.Mul(cast(graph, scaled, step.dtype), weight), bias)


class OffsetRMSNorm(RMSNorm):
    """The same times 1 + weight, all of it in float32 and rounded once (Gemma)."""

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        graph, wide = step.graph, ir.DataType.FLOAT
        gain = cast(graph, self.weight.value(graph, step.dtype), wide)
        gain = graph.op.Add(gain, graph.constant(1.0, wide))
        return cast(graph, RMS_NORM(graph, cast(graph, x, wide), gain, epsilon=self.epsilon), step.dtype)
