"""GLM-4-0414: norms before and behind attention and MLP; RoPE turns neighbours in a part of each head."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention import InterleavedGroupedQueryAttention
from porter.blocks.decoder import Decoder
from porter.blocks.layers import SandwichLayer
from porter.blocks.mlp import GatedMLP
from porter.families._common import decoder, fused, renamed
from porter.families._config import DecoderConfig
from porter.families._rope import rotated_part
from porter.layout import ONE_CARD, Layout
from porter.weights import Rule

MODEL_TYPES = ("glm4",)


@dataclass(frozen=True)
class Config(DecoderConfig):
    """transformers' Glm4Config."""

    turns_parts = True

    vocab_size: int = 151552
    intermediate_size: int = 13696
    num_hidden_layers: int = 40
    num_key_value_heads: int | None = 2
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1.5625e-07
    partial_rotary_factor: float | None = 0.5
    head_dim: int = 128
    attention_bias: bool = True


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention and a gated MLP between two norms each, in every layer."""
    layers = [
        SandwichLayer(
            config.hidden_size,
            config.rms_norm_eps,
            InterleavedGroupedQueryAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.key_value_heads,
                config.head_dim,
                qkv_bias=config.attention_bias,
                layout=layout,
            ),
            GatedMLP(config.hidden_size, config.intermediate_size, layout=layout),
        )
        for _ in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=rotated_part(config, config.head_dim), layout=layout)


def weights(config: Config) -> tuple[Rule, ...]:
    """The norms have names of their own on disk; gate and up are one tensor there."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return (
        renamed("*.pre_feedforward_layernorm.weight", "*.post_attention_layernorm.weight", hidden),
        renamed("*.post_attention_layernorm.weight", "*.post_self_attn_layernorm.weight", hidden),
        renamed("*.post_feedforward_layernorm.weight", "*.post_mlp_layernorm.weight", hidden),
        *fused("*.mlp.gate_up_proj", hidden, gate_proj=inner, up_proj=inner),
    )
