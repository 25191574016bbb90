"""Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) over a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from porter.blocks.linear import linear
from porter.blocks.module import Module
from porter.blocks.norm import RMSNorm
from porter.blocks.rope import Rotation
from porter.blocks.step import Step
from porter.dialect import ATTENTION
from porter.layout import ONE_CARD, WHOLE, Indivisible, Layout, Share


@dataclass(frozen=True)
class CacheEntry:
    """One tensor of a layer's cache: [batch, heads, past, width]; of several cards each may have a share of heads."""

    name: str
    heads: int
    width: int
    share: Share = WHOLE


class GroupedQueryAttention(Module):
    """`heads` query heads share `groups` key and value heads of width `head_dim`."""

    kind = "grouped-query"  # in words
    interleaved = 0  # whether the rotation turns neighbouring features

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        groups: int,
        head_dim: int,
        *,
        qkv_bias: bool = False,
        output_bias: bool = False,
        window: int | None = None,
        scale: float | None = None,
        layout: Layout = ONE_CARD,
    ) -> None:
        own, shared = layout.divided(heads, "attention heads"), layout.shared(groups, "key-value heads")
        self.q_proj = linear(hidden_size, heads * head_dim, qkv_bias, rows=own)
        self.k_proj = linear(hidden_size, groups * head_dim, qkv_bias, rows=shared)
        self.v_proj = linear(hidden_size, groups * head_dim, qkv_bias, rows=shared)
        self.o_proj = linear(heads * head_dim, hidden_size, output_bias, columns=own)
        self.heads, self.groups, self.head_dim, self.window = own.of(heads), shared.of(groups), head_dim, window
        self.scale = head_dim**-0.5 if scale is None else scale  # of the scores
        self.cache = tuple(CacheEntry(name, self.groups, head_dim, shared) for name in ("key", "value"))

    def forward(
        self, step: Step, x: ir.Value, rotation: Rotation, past: Sequence[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        """X [tokens, hidden_size] → the same shape, and the cache with the new tokens in it."""
        q = step.split_heads(self.queries(step, x), self.heads, self.head_dim)
        k = step.split_heads(self.keys(step, x), self.groups, self.head_dim)
        v = step.split_heads(self.v_proj(step, x), self.groups, self.head_dim)
        q, k = self.place_queries(step, q, rotation), self.place_keys(step, k, rotation)
        keys, values = step.update(past[0], k), step.update(past[1], v)  # [batch, groups, total, head_dim]
        mixed = self.mix(step, q, keys, values, step.mask(self.window))
        return self.o_proj(step, step.merge_heads(mixed, self.heads, self.head_dim)), [keys, values]

    def queries(self, step: Step, x: ir.Value) -> ir.Value:
        return self.q_proj(step, x)

    def keys(self, step: Step, x: ir.Value) -> ir.Value:
        return self.k_proj(step, x)

    def place_queries(self, step: Step, q: ir.Value, rotation: Rotation) -> ir.Value:
        return self.turn(step, self.normalize_queries(step, q), rotation)

    def place_keys(self, step: Step, k: ir.Value, rotation: Rotation) -> ir.Value:
        return self.turn(step, self.normalize_keys(step, k), rotation)

    def turn(self, step: Step, x: ir.Value, rotation: Rotation) -> ir.Value:
        return rotation.turn(step, x, self.head_dim, interleaved=self.interleaved)

    def mix(self, step: Step, q: ir.Value, keys: ir.Value, values: ir.Value, mask: ir.Value) -> ir.Value:
        return ATTENTION(step.graph, q, keys, values, mask, **self.rule(step))

    def rule(self, step: Step) -> dict[str, Any]:
        """What attention is told of its sizes."""
        return {
            "heads": self.heads,
            "groups": self.groups,
            "key_dim": self.head_dim,
            "value_dim": self.head_dim,
            "scale": self.scale,
            "one": step.one,
        }

    def normalize_queries(self, step: Step, q: ir.Value) -> ir.Value:
        return q

    def normalize_keys(self, step: Step, k: ir.Value) -> ir.Value:
        return k


class InterleavedGroupedQueryAttention(GroupedQueryAttention):
    """The rotation turns neighbours, (2i, 2i + 1), instead of features half a head apart (ERNIE)."""

    interleaved = 1


class NormedGroupedQueryAttention(GroupedQueryAttention):
    """Queries and keys pass an RMSNorm per head before the rotation (Qwen3)."""

    kind = "grouped-query, normed heads"
    norm: ClassVar[type[RMSNorm]] = RMSNorm

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        groups: int,
        head_dim: int,
        *,
        epsilon: float,
        qkv_bias: bool = False,
        output_bias: bool = False,
        window: int | None = None,
        scale: float | None = None,
        layout: Layout = ONE_CARD,
    ) -> None:
        super().__init__(
            hidden_size,
            heads,
            groups,
            head_dim,
            qkv_bias=qkv_bias,
            output_bias=output_bias,
            window=window,
            scale=scale,
            layout=layout,
        )
        self.q_norm = self.norm(head_dim, epsilon)
        self.k_norm = self.norm(head_dim, epsilon)

    def normalize_queries(self, step: Step, q: ir.Value) -> ir.Value:
        return self.q_norm(step, q)

    def normalize_keys(self, step: Step, k: ir.Value) -> ir.Value:
        return self.k_norm(step, k)


class WideNormedGroupedQueryAttention(GroupedQueryAttention):
    """Queries and keys pass an RMSNorm over all heads at once before the rotation (MiniMax-M2): on one card only."""

    kind = "grouped-query, normed over all heads"

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        groups: int,
        head_dim: int,
        *,
        epsilon: float,
        qkv_bias: bool = False,
        output_bias: bool = False,
        window: int | None = None,
        layout: Layout = ONE_CARD,
    ) -> None:
        if layout.tp > 1:
            raise Indivisible("a norm over all heads at once is not divided over cards", "leave out --tp")
        super().__init__(
            hidden_size,
            heads,
            groups,
            head_dim,
            qkv_bias=qkv_bias,
            output_bias=output_bias,
            window=window,
            layout=layout,
        )
        self.q_norm = RMSNorm(heads * head_dim, epsilon)
        self.k_norm = RMSNorm(groups * head_dim, epsilon)

    def queries(self, step: Step, x: ir.Value) -> ir.Value:
        return self.q_norm(step, self.q_proj(step, x))

    def keys(self, step: Step, x: ir.Value) -> ir.Value:
        return self.k_norm(step, self.k_proj(step, x))
