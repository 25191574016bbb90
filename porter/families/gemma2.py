"""Gemma 2 (arXiv:2408.00118): norms on both sides that count from one, soft caps, windows in every other layer."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention import GroupedQueryAttention
from porter.blocks.attention_kinds import CappedGroupedQueryAttention
from porter.blocks.decoder import Decoder
from porter.blocks.layers import SandwichLayer
from porter.blocks.mlp import GeluGatedMLP
from porter.blocks.norm import OffsetRMSNorm
from porter.families._common import decoder
from porter.families._offset import OffsetConfig
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("gemma2",)


@dataclass(frozen=True)
class Config(OffsetConfig):
    """transformers' Gemma2Config."""

    vocab_size: int = 256000
    max_position_embeddings: int = 8192
    final_logit_softcapping: float | None = 30.0
    attn_logit_softcapping: float | None = 50.0

    def windowed(self, layer: int) -> bool:
        return layer % 2 == 0


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Capped attention and a GELU-gated MLP between two norms each, in every layer."""
    layers = [
        SandwichLayer(
            config.hidden_size,
            config.rms_norm_eps,
            _attention(config, n, layout),
            GeluGatedMLP(config.hidden_size, config.intermediate_size, layout=layout),
            OffsetRMSNorm,
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=config.head_dim, ends=config.ends, layout=layout)


def _attention(config: Config, layer: int, layout: Layout) -> GroupedQueryAttention:
    sizes = (config.hidden_size, config.num_attention_heads, config.key_value_heads, config.head_dim)
    bias, window = config.attention_bias, config.window_of_layer(layer)
    if config.attn_logit_softcapping is None:
        return GroupedQueryAttention(
            *sizes, qkv_bias=bias, output_bias=bias, window=window, scale=config.scale, layout=layout
        )
    return CappedGroupedQueryAttention(
        *sizes,
        cap=config.attn_logit_softcapping,
        qkv_bias=bias,
        output_bias=bias,
        window=window,
        scale=config.scale,
        layout=layout,
    )
