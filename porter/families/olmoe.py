"""OLMoE (arXiv:2409.02060): queries and keys normalised over all heads, a softmax router, experts in every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from porter.blocks.attention import WideNormedGroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.moe import Experts, MixtureOfExperts, Router
from porter.families._common import decoder, stacked_experts
from porter.families._config import DecoderConfig
from porter.layout import ONE_CARD, Layout
from porter.weights import Rule

MODEL_TYPES = ("olmoe",)


@dataclass(frozen=True)
class Config(DecoderConfig):
    """transformers' OlmoeConfig."""

    aliases: ClassVar = {"num_local_experts": "num_experts"}

    vocab_size: int = 50304
    hidden_size: int = 2048
    intermediate_size: int = 2048
    num_hidden_layers: int = 16
    num_attention_heads: int = 16
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    clip_qkv: float | None = None
    num_experts_per_tok: int = 8
    num_experts: int = 64
    norm_topk_prob: bool = False

    def check(self) -> None:
        super().check()
        self.only("clip_qkv", None)  # no released model clips
        self.divides("num_attention_heads", "hidden_size")
        self.at_most("num_experts_per_tok", self.num_experts, "num_experts")


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention with wide norms and top-k experts in every layer."""
    hidden, experts, top_k = config.hidden_size, config.num_experts, config.num_experts_per_tok
    head_dim = hidden // config.num_attention_heads
    layers = [
        DecoderLayer(
            hidden,
            config.rms_norm_eps,
            WideNormedGroupedQueryAttention(
                hidden,
                config.num_attention_heads,
                config.key_value_heads,
                head_dim,
                epsilon=config.rms_norm_eps,
                qkv_bias=config.attention_bias,
                output_bias=config.attention_bias,
                layout=layout,
            ),
            MixtureOfExperts(
                Router(hidden, experts, top_k, normalize=config.norm_topk_prob),
                Experts(hidden, config.intermediate_size, experts, top_k, layout=layout),
            ),
        )
        for _ in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=head_dim, layout=layout)


def weights(config: Config) -> tuple[Rule, ...]:
    """Experts are one tensor each on disk, or fused."""
    sizes = (config.num_experts, config.hidden_size, config.intermediate_size)
    return stacked_experts("mlp", *sizes, gate="gate_proj", up="up_proj", down="down_proj")
