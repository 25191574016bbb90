"""Granite (arXiv:2405.04324): Llama with multipliers of embedding, residual branches, scores and logits."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.decoder import Decoder
from porter.blocks.layers import ScaledLayer
from porter.blocks.mlp import GatedMLP
from porter.families._common import decoder
from porter.families._multiplied import MultipliedConfig, attention
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("granite",)


@dataclass(frozen=True)
class Config(MultipliedConfig):
    """transformers' GraniteConfig."""

    mlp_bias: bool = False


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention and a gated MLP in every layer."""
    layers = [
        ScaledLayer(
            config.hidden_size,
            config.rms_norm_eps,
            attention(config, layout),
            GatedMLP(config.hidden_size, config.intermediate_size, config.mlp_bias, layout=layout),
            config.residual_multiplier,
        )
        for _ in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=config.width, ends=config.ends, layout=layout)
