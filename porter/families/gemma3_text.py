"""Gemma 3's text models (arXiv:2503.19786): Gemma 2 with normed heads for caps, and two rotations."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention_kinds import (
    LocalOffsetNormedGroupedQueryAttention,
    OffsetNormedGroupedQueryAttention,
)
from porter.blocks.decoder import Decoder
from porter.blocks.layers import SandwichLayer
from porter.blocks.mlp import GeluGatedMLP
from porter.blocks.norm import OffsetRMSNorm
from porter.families._common import decoder
from porter.families._offset import OffsetConfig
from porter.families._rope import local_rope_of
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("gemma3_text",)


@dataclass(frozen=True)
class Config(OffsetConfig):
    """transformers' Gemma3TextConfig."""

    default_theta = 1000000.0

    vocab_size: int = 262208
    max_position_embeddings: int = 131072
    rope_local_base_freq: float = 10000.0
    sliding_window_pattern: int = 6

    def check(self) -> None:
        super().check()
        self.only("attn_logit_softcapping", None)  # transformers does not read it for these
        self.above_zero("rope_local_base_freq")

    def windowed(self, layer: int) -> bool:
        return (layer + 1) % self.sliding_window_pattern != 0


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Attention with normed heads and a GELU-gated MLP between two norms each, in every layer."""
    layers = []
    for n in layout.layers(config.num_hidden_layers):
        window = config.window_of_layer(n)
        attention = OffsetNormedGroupedQueryAttention if window is None else LocalOffsetNormedGroupedQueryAttention
        heads = attention(
            config.hidden_size,
            config.num_attention_heads,
            config.key_value_heads,
            config.head_dim,
            epsilon=config.rms_norm_eps,
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            window=window,
            scale=config.scale,
            layout=layout,
        )
        mlp = GeluGatedMLP(config.hidden_size, config.intermediate_size, layout=layout)
        layers.append(SandwichLayer(config.hidden_size, config.rms_norm_eps, heads, mlp, OffsetRMSNorm))
    rope = local_rope_of(config, config.head_dim, config.rope_local_base_freq)
    return decoder(config, layers, rotated=config.head_dim, rope=rope, ends=config.ends, layout=layout)
