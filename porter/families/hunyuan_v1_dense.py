"""Hunyuan's dense models: heads normed behind the rotation, whose base is stretched once and for all."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention_kinds import TurnedNormedGroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.families._common import decoder, renamed
from porter.families._config import DecoderConfig
from porter.families._rope import stretched_rope_of
from porter.layout import ONE_CARD, Layout
from porter.weights import Rule

MODEL_TYPES = ("hunyuan_v1_dense",)


@dataclass(frozen=True)
class Config(DecoderConfig):
    """transformers' HunYuanDenseV1Config."""

    vocab_size: int = 290943
    rms_norm_eps: float = 1e-5
    head_dim: int | None = None
    attention_bias: bool = False

    def check(self) -> None:
        super().check()
        if self.head_dim is None:
            self.divides("num_attention_heads", "hidden_size")

    @property
    def width(self) -> int:
        """How wide a head is."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention with normed heads and a gated MLP in every layer."""
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            TurnedNormedGroupedQueryAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.key_value_heads,
                config.width,
                epsilon=config.rms_norm_eps,
                qkv_bias=config.attention_bias,
                output_bias=config.attention_bias,
                layout=layout,
            ),
            GatedMLP(config.hidden_size, config.intermediate_size, layout=layout),
        )
        for _ in layout.layers(config.num_hidden_layers)
    ]
    rope = stretched_rope_of(config, config.width)
    return decoder(config, layers, rotated=config.width, rope=rope, layout=layout)


def weights(config: Config) -> tuple[Rule, ...]:
    """The norms of heads have names of their own on disk."""
    return (
        renamed("*.q_norm.weight", "*.query_layernorm.weight", config.width),
        renamed("*.k_norm.weight", "*.key_layernorm.weight", config.width),
    )
