"""Qwen3 (arXiv:2505.09388): queries and keys normalised per head; optionally windows in the upper layers."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention import NormedGroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.families._common import UpperWindowedConfig, decoder
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("qwen3",)


@dataclass(frozen=True)
class Config(UpperWindowedConfig):
    """transformers' Qwen3Config."""

    intermediate_size: int = 22016
    vocab_size: int = 151936
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    head_dim: int = 128
    attention_bias: bool = False


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention with normalised heads and a gated MLP in every layer."""
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            NormedGroupedQueryAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.key_value_heads,
                config.head_dim,
                epsilon=config.rms_norm_eps,
                qkv_bias=config.attention_bias,
                output_bias=config.attention_bias,
                window=config.window_of_layer(n),
                layout=layout,
            ),
            GatedMLP(config.hidden_size, config.intermediate_size, layout=layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=config.head_dim, layout=layout)
