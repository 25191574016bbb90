"""Variations of the decoder layer: where its norms stand, and by what its branches are multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from porter.blocks.decoder import DecoderLayer
from porter.blocks.module import Module
from porter.blocks.norm import RMSNorm
from porter.blocks.rope import Rotation
from porter.blocks.step import Step


class ScaledLayer(DecoderLayer):
    """What attention and MLP add is multiplied by a factor (Granite)."""

    def __init__(self, hidden_size: int, epsilon: float, attention: Any, mlp: Module, factor: float) -> None:
        super().__init__(hidden_size, epsilon, attention, mlp)
        self.factor = factor

    def attended(
        self, step: Step, x: ir.Value, rotation: Rotation, past: Sequence[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        mixed, cache = super().attended(step, x, rotation, past)
        return step.times(mixed, self.factor), cache

    def fed(self, step: Step, x: ir.Value) -> ir.Value:
        return step.times(super().fed(step, x), self.factor)


class NormedBehindLayer(DecoderLayer):
    """x + norm(attention(x)), then x + norm(mlp(x)) (OLMo 2, arXiv:2501.00656)."""

    def __init__(self, hidden_size: int, epsilon: float, attention: Any, mlp: Module) -> None:
        self.self_attn = attention
        self.post_attention_layernorm = RMSNorm(hidden_size, epsilon)
        self.mlp = mlp
        self.post_feedforward_layernorm = RMSNorm(hidden_size, epsilon)

    def attended(
        self, step: Step, x: ir.Value, rotation: Rotation, past: Sequence[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        mixed, cache = self.self_attn(step, x, rotation, past)
        return self.post_attention_layernorm(step, mixed), cache

    def fed(self, step: Step, x: ir.Value) -> ir.Value:
        return self.post_feedforward_layernorm(step, self.mlp(step, x))


class SandwichLayer(DecoderLayer):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x))), with norms of one kind."""

    def __init__(
        self, hidden_size: int, epsilon: float, attention: Any, mlp: Module, norm: type[RMSNorm] = RMSNorm
    ) -> None:
        self.input_layernorm = norm(hidden_size, epsilon)
        self.self_attn = attention
        self.post_attention_layernorm = norm(hidden_size, epsilon)
        self.pre_feedforward_layernorm = norm(hidden_size, epsilon)
        self.mlp = mlp
        self.post_feedforward_layernorm = norm(hidden_size, epsilon)

    def attended(
        self, step: Step, x: ir.Value, rotation: Rotation, past: Sequence[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        mixed, cache = super().attended(step, x, rotation, past)
        return self.post_attention_layernorm(step, mixed), cache

    def fed(self, step: Step, x: ir.Value) -> ir.Value:
        return self.post_feedforward_layernorm(step, self.mlp(step, self.pre_feedforward_layernorm(step, x)))
