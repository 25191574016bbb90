"""Qwen2 and Qwen2.5 (arXiv:2407.10671): biases on queries, keys and values; optionally windows in the upper layers."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention import GroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.families._common import UpperWindowedConfig, decoder
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("qwen2",)


@dataclass(frozen=True)
class Config(UpperWindowedConfig):
    """transformers' Qwen2Config."""

    intermediate_size: int = 22016
    vocab_size: int = 151936
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    head_dim: int | None = None

    def check(self) -> None:
        super().check()
        if self.head_dim is None:
            self.divides("num_attention_heads", "hidden_size")


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention with biases and a gated MLP in every layer."""
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            GroupedQueryAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.key_value_heads,
                head_dim,
                qkv_bias=True,
                window=config.window_of_layer(n),
                layout=layout,
            ),
            GatedMLP(config.hidden_size, config.intermediate_size, layout=layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=head_dim, layout=layout)
