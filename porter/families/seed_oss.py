"""Seed-OSS: Llama with biases on queries, keys and values, and heads of a size of their own."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention import GroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.families._common import decoder
from porter.families._config import DecoderConfig
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("seed_oss",)


@dataclass(frozen=True)
class Config(DecoderConfig):
    """transformers' SeedOssConfig."""

    vocab_size: int = 155136
    intermediate_size: int = 27648
    num_hidden_layers: int = 64
    num_attention_heads: int = 80
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 524288
    head_dim: int | None = 128
    attention_bias: bool = True
    attention_out_bias: bool = False
    mlp_bias: bool = False

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
                qkv_bias=config.attention_bias,
                output_bias=config.attention_out_bias,
                layout=layout,
            ),
            GatedMLP(config.hidden_size, config.intermediate_size, config.mlp_bias, layout=layout),
        )
        for _ in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=head_dim, layout=layout)
