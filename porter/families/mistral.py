"""Mistral (arXiv:2310.06825): Llama without biases, optionally with a sliding window in every layer or in some."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention import GroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.families._common import WindowedConfig, decoder
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("mistral",)


@dataclass(frozen=True)
class Config(WindowedConfig):
    """transformers' MistralConfig, or where `layer_types` is given the MinistralConfig that it then takes."""

    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 4096 * 32
    head_dim: int | None = None

    def check(self) -> None:
        super().check()
        if self.head_dim is None:
            self.divides("num_attention_heads", "hidden_size")


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention within the window and a gated MLP in every layer."""
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
                window=config.window_of_layer(n),
                layout=layout,
            ),
            GatedMLP(config.hidden_size, config.intermediate_size, layout=layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=head_dim, layout=layout)
