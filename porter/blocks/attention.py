"""Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) over a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from porter.blocks.linear import linear
from porter.blocks.module import Module
from porter.blocks.norm import RMSNorm
from porter.blocks.rope import Rotation
from porter.blocks.step import Step
from porter.dialect import ATTENTION, ROTARY_EMBEDDING
from porter.layout import ONE_CARD, WHOLE, Layout, Share


@dataclass(frozen=True)
class CacheEntry:
    """One tensor of a layer's cache: [batch, heads, past, width]; of several cards each may have a share of heads."""

    name: str
    heads: int
    width: int
    share: Share = WHOLE


class GroupedQueryAttention(Module):
    """`heads` query heads share `groups` key and value heads of width `head_dim`."""

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
        layout: Layout = ONE_CARD,
    ) -> None:
        own, shared = layout.divided(heads, "attention heads"), layout.shared(groups, "key-value heads")
        self.q_proj = linear(hidden_size, heads * head_dim, qkv_bias, rows=own)
        self.k_proj = linear(hidden_size, groups * head_dim, qkv_bias, rows=shared)
        self.v_proj = linear(hidden_size, groups * head_dim, qkv_bias, rows=shared)
        self.o_proj = linear(heads * head_dim, hidden_size, output_bias, columns=own)
        self.heads, self.groups, self.head_dim, self.window = own.of(heads), shared.of(groups), head_dim, window
        self.cache = tuple(CacheEntry(name, self.groups, head_dim, shared) for name in ("key", "value"))

    def forward(
        self, step: Step, x: ir.Value, rotation: Rotation, past: Sequence[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        """X [tokens, hidden_size] → the same shape, and the cache with the new tokens in it."""
        graph = step.graph
        q = self.normalize_queries(step, step.split_heads(self.q_proj(step, x), self.heads, self.head_dim))
        k = self.normalize_keys(step, step.split_heads(self.k_proj(step, x), self.groups, self.head_dim))
        v = step.split_heads(self.v_proj(step, x), self.groups, self.head_dim)
        q = ROTARY_EMBEDDING(graph, q, rotation.cos, rotation.sin, interleaved=0, dim=self.head_dim)
        k = ROTARY_EMBEDDING(graph, k, rotation.cos, rotation.sin, interleaved=0, dim=self.head_dim)
        keys, values = step.update(past[0], k), step.update(past[1], v)  # [batch, groups, total, head_dim]
        mixed = ATTENTION(
            graph,
            q,
            keys,
            values,
            step.mask(self.window),
            heads=self.heads,
            groups=self.groups,
            key_dim=self.head_dim,
            value_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            one=step.one,
        )
        return self.o_proj(step, step.merge_heads(mixed, self.heads, self.head_dim)), [keys, values]

    def normalize_queries(self, step: Step, q: ir.Value) -> ir.Value:
        return q

    def normalize_keys(self, step: Step, k: ir.Value) -> ir.Value:
        return k


class NormedGroupedQueryAttention(GroupedQueryAttention):
    """Queries and keys pass an RMSNorm per head before the rotation (Qwen3)."""

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
        self.q_norm = RMSNorm(head_dim, epsilon)
        self.k_norm = RMSNorm(head_dim, epsilon)

    def normalize_queries(self, step: Step, q: ir.Value) -> ir.Value:
        return self.q_norm(step, q)

    def normalize_keys(self, step: Step, k: ir.Value) -> ir.Value:
        return self.k_norm(step, k)
