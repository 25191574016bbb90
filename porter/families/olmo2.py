"""OLMo 2 (arXiv:2501.00656): norms behind attention and MLP; queries and keys normalised over all heads."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention import WideNormedGroupedQueryAttention
from porter.blocks.decoder import Decoder
from porter.blocks.layers import NormedBehindLayer
from porter.blocks.mlp import GatedMLP
from porter.families._common import decoder
from porter.families._config import DecoderConfig
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("olmo2",)


@dataclass(frozen=True)
class Config(DecoderConfig):
    """transformers' Olmo2Config."""

    vocab_size: int = 50304
    rms_norm_eps: float = 1e-5
    head_dim: int | None = None
    attention_bias: bool = False

    def check(self) -> None:
        super().check()
        if self.head_dim is None:
            self.divides("num_attention_heads", "hidden_size")


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention with wide norms and a gated MLP in every layer."""
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    layers = [
        NormedBehindLayer(
            config.hidden_size,
            config.rms_norm_eps,
            WideNormedGroupedQueryAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.key_value_heads,
                head_dim,
                epsilon=config.rms_norm_eps,
                qkv_bias=config.attention_bias,
                output_bias=config.attention_bias,
                layout=layout,
            ),
            GatedMLP(config.hidden_size, config.intermediate_size, layout=layout),
        )
        for _ in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=head_dim, layout=layout)
