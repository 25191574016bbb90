"""Llama (arXiv:2302.13971, 2407.21783)."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention import GroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.families._common import decoder
from porter.families._config import DecoderConfig
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("llama",)


@dataclass(frozen=True)
class Config(DecoderConfig):
    """transformers' LlamaConfig."""

    head_dim: int | None = None
    attention_bias: bool = False
    mlp_bias: bool = False

    def check(self) -> None:
        super().check()
        self.divides("num_attention_heads", "hidden_size")  # transformers insists, even with head_dim given


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention and a gated MLP in every layer."""
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
                output_bias=config.attention_bias,
                layout=layout,
            ),
            GatedMLP(config.hidden_size, config.intermediate_size, config.mlp_bias, layout=layout),
        )
        for _ in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=head_dim, layout=layout)
