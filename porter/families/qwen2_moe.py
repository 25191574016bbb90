"""Qwen1.5-MoE and Qwen2-MoE (arXiv:2407.10671): routed experts, and a shared one of which each token takes a share."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention import GroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.blocks.moe import Experts, GatedSharedMixtureOfExperts, Router
from porter.families import _stepped
from porter.families._common import WindowedConfig, decoder
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("qwen2_moe",)


@dataclass(frozen=True)
class Config(WindowedConfig, _stepped.SteppedConfig):
    """transformers' Qwen2MoeConfig."""

    zeros = frozenset({"sliding_window"})  # how transformers 5 writes that there is none

    vocab_size: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 5632
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 16
    max_position_embeddings: int = 32768
    qkv_bias: bool = True
    use_sliding_window: bool = False
    max_window_layers: int = 28
    moe_intermediate_size: int = 1408
    shared_expert_intermediate_size: int = 5632
    num_experts_per_tok: int = 4
    num_experts: int = 60

    def check(self) -> None:
        super().check()
        if self.use_sliding_window:
            self.above_zero("sliding_window")

    @property
    def window(self) -> int | None:
        return self.sliding_window if self.use_sliding_window else None

    def windowed(self, layer: int) -> bool:
        return layer % 2 == 0 and layer < self.max_window_layers


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention with biases; experts or a dense MLP by layer."""
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
                qkv_bias=config.qkv_bias,
                window=config.window_of_layer(n),
                layout=layout,
            ),
            _experts(config, layout)
            if config.routed(n)
            else GatedMLP(config.hidden_size, config.intermediate_size, layout=layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=head_dim, layout=layout)


def _experts(config: Config, layout: Layout) -> GatedSharedMixtureOfExperts:
    hidden, experts, top_k = config.hidden_size, config.num_experts, config.num_experts_per_tok
    return GatedSharedMixtureOfExperts(
        Router(hidden, experts, top_k, normalize=config.norm_topk_prob),
        Experts(hidden, config.moe_intermediate_size, experts, top_k, layout=layout),
        GatedMLP(hidden, config.shared_expert_intermediate_size, layout=layout),
        hidden,
    )


weights = _stepped.weights
