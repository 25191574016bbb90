"""Qwen3-MoE (arXiv:2505.09388): Qwen3's attention, a softmax router and routed experts in most layers."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention import NormedGroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.blocks.moe import Experts, MixtureOfExperts, Router
from porter.families import _stepped
from porter.families._common import decoder
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("qwen3_moe",)


@dataclass(frozen=True)
class Config(_stepped.SteppedConfig):
    """transformers' Qwen3MoeConfig."""

    vocab_size: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 6144
    num_hidden_layers: int = 24
    num_key_value_heads: int | None = 4
    max_position_embeddings: int = 32768
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: int | None = 4096


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention with normalised heads; experts or a dense MLP by layer."""
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            NormedGroupedQueryAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.key_value_heads,
                head_dim,
                epsilon=config.rms_norm_eps,
                qkv_bias=config.attention_bias,
                output_bias=config.attention_bias,
                window=config.sliding_window if config.use_sliding_window else None,
                layout=layout,
            ),
            _experts(config, layout)
            if config.routed(n)
            else GatedMLP(config.hidden_size, config.intermediate_size, layout=layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=head_dim, layout=layout)


def _experts(config: Config, layout: Layout) -> MixtureOfExperts:
    hidden, experts, top_k = config.hidden_size, config.num_experts, config.num_experts_per_tok
    return MixtureOfExperts(
        Router(hidden, experts, top_k, normalize=config.norm_topk_prob),
        Experts(hidden, config.moe_intermediate_size, experts, top_k, layout=layout),
    )


weights = _stepped.weights
