"""Variations of grouped-query attention: how heads are turned, normed and scored."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from porter.blocks.attention import GroupedQueryAttention, NormedGroupedQueryAttention
from porter.blocks.module import Parameter
from porter.blocks.norm import OffsetRMSNorm
from porter.blocks.rope import Rotation
from porter.blocks.rope_kinds import LocalRotation
from porter.blocks.step import Step
from porter.dialect import CAPPED_ATTENTION, SINK_ATTENTION
from porter.layout import ONE_CARD, Layout, cut_of


class UnturnedGroupedQueryAttention(GroupedQueryAttention):
    """Without a rotation: the mask alone tells one place from another (SmolLM3)."""

    kind = "grouped-query without a rotation"

    def turn(self, step: Step, x: ir.Value, rotation: Rotation) -> ir.Value:
        return x


class UnturnedNormedGroupedQueryAttention(UnturnedGroupedQueryAttention, NormedGroupedQueryAttention):
    """Heads with a norm of their own and without a rotation (EXAONE 4)."""

    kind = "grouped-query, normed heads, without a rotation"


class TurnedNormedGroupedQueryAttention(NormedGroupedQueryAttention):
    """The norm of each head comes behind the rotation (Hunyuan)."""

    kind = "grouped-query, heads normed behind the rotation"

    def place_queries(self, step: Step, q: ir.Value, rotation: Rotation) -> ir.Value:
        return self.normalize_queries(step, self.turn(step, q, rotation))

    def place_keys(self, step: Step, k: ir.Value, rotation: Rotation) -> ir.Value:
        return self.normalize_keys(step, self.turn(step, k, rotation))


class OffsetNormedGroupedQueryAttention(NormedGroupedQueryAttention):
    """Heads with norms whose weights count from one (Gemma 3)."""

    norm = OffsetRMSNorm


class LocalOffsetNormedGroupedQueryAttention(OffsetNormedGroupedQueryAttention):
    """The same with the rotation of its own that layers within a window have."""

    kind = "grouped-query, normed heads, a rotation of its own"

    def turn(self, step: Step, x: ir.Value, rotation: Rotation) -> ir.Value:
        assert isinstance(rotation, LocalRotation)
        return super().turn(step, x, rotation.local)


class CappedGroupedQueryAttention(GroupedQueryAttention):
    """Scores pressed softly below a cap: cap * tanh(score / cap) (Gemma 2, arXiv:2408.00118)."""

    kind = "grouped-query, capped scores"

    def __init__(self, *sizes: int, cap: float, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.cap = cap

    def mix(self, step: Step, q: ir.Value, keys: ir.Value, values: ir.Value, mask: ir.Value) -> ir.Value:
        return CAPPED_ATTENTION(step.graph, q, keys, values, mask, cap=self.cap, **self.rule(step))


class SinkGroupedQueryAttention(GroupedQueryAttention):
    """Beside the keys each head has a learned score that takes its share of attention and gives nothing (GPT-OSS)."""

    kind = "grouped-query, sinks"

    def __init__(self, hidden_size: int, heads: int, *sizes: int, layout: Layout = ONE_CARD, **options: Any) -> None:
        super().__init__(hidden_size, heads, *sizes, layout=layout, **options)
        own = layout.divided(heads, "attention heads")
        self.sinks = Parameter((self.heads,), cut=cut_of((heads,), own))

    def mix(self, step: Step, q: ir.Value, keys: ir.Value, values: ir.Value, mask: ir.Value) -> ir.Value:
        sinks = self.sinks.value(step.graph, step.dtype)
        return SINK_ATTENTION(step.graph, q, keys, values, mask, sinks, **self.rule(step))
