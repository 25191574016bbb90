"""GPT-OSS (arXiv:2508.10925): attention sinks, windows by turns, experts with biases and a clamped gate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from porter.blocks.attention_kinds import SinkGroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.moe import BiasedExperts, MixtureOfExperts, OpenRouter
from porter.families._common import WindowedConfig, decoder, renamed
from porter.layout import ONE_CARD, Layout
from porter.weights import Rule

MODEL_TYPES = ("gpt_oss",)
# What transformers takes where config.json says nothing of a rotation:
ROPE = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
ROPE |= {"original_max_position_embeddings": 4096}


@dataclass(frozen=True)
class Config(WindowedConfig):
    """transformers' GptOssConfig. Its `hidden_act` is not read: gates are what `swiglu_alpha` makes them."""

    default_theta = 150000.0
    aliases: ClassVar = {"num_experts": "num_local_experts"}

    vocab_size: int = 201088
    hidden_size: int = 2880
    intermediate_size: int = 2880
    num_hidden_layers: int = 36
    num_attention_heads: int = 64
    num_key_value_heads: int | None = 8
    head_dim: int = 64
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = 128
    attention_bias: bool = True
    num_local_experts: int = 128
    num_experts_per_tok: int = 4
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0

    def check(self) -> None:
        super().check()
        self.at_most("num_experts_per_tok", self.num_local_experts, "num_local_experts")

    def windowed(self, layer: int) -> bool:
        return layer % 2 == 0


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention with sinks and routed experts in every layer."""
    hidden, experts, top_k = config.hidden_size, config.num_local_experts, config.num_experts_per_tok
    layers = [
        DecoderLayer(
            hidden,
            config.rms_norm_eps,
            SinkGroupedQueryAttention(
                hidden,
                config.num_attention_heads,
                config.key_value_heads,
                config.head_dim,
                qkv_bias=config.attention_bias,
                output_bias=config.attention_bias,
                window=config.window_of_layer(n),
                layout=layout,
            ),
            MixtureOfExperts(
                OpenRouter(hidden, experts, top_k),
                BiasedExperts(
                    hidden,
                    config.intermediate_size,
                    experts,
                    top_k,
                    alpha=config.swiglu_alpha,
                    limit=config.swiglu_limit,
                    layout=layout,
                ),
            ),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    if config.rope_parameters is None and not config.rope_scaling:
        config = dataclasses.replace(config, rope_parameters=ROPE)
    return decoder(config, layers, rotated=config.head_dim, layout=layout)


def weights(config: Config) -> tuple[Rule, ...]:
    """The router has a name of its own on disk."""
    experts = config.num_local_experts
    return (
        renamed("*.mlp.gate.weight", "*.mlp.router.weight", experts, config.hidden_size),
        renamed("*.mlp.gate.bias", "*.mlp.router.bias", experts),
    )
