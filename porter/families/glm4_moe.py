"""GLM-4.5 (arXiv:2508.06471): grouped-query attention with partial rotation and DeepSeek-V3's experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from porter.blocks.attention import GroupedQueryAttention, NormedGroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.families import _routed
from porter.families._common import decoder
from porter.families._rope import rotated_part
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("glm4_moe",)


@dataclass(frozen=True)
class Config(_routed.BiasedConfig):
    """transformers' Glm4MoeConfig."""

    aliases: ClassVar = {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"}
    example: ClassVar = {"head_dim": 128}  # of GLM-4.5 and its Air
    turns_parts = True

    vocab_size: int = 151552
    intermediate_size: int = 10944
    num_hidden_layers: int = 46
    num_attention_heads: int = 96
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    partial_rotary_factor: float | None = 0.5
    head_dim: int | None = None
    attention_bias: bool = False
    use_qk_norm: bool = False
    moe_intermediate_size: int = 1408
    num_experts_per_tok: int = 8
    n_shared_experts: int = 1
    n_routed_experts: int = 128
    n_group: int | None = 1
    topk_group: int | None = 1
    first_k_dense_replace: int = 1
    num_nextn_predict_layers: int = 1

    def check(self) -> None:
        super().check()
        if self.head_dim is None:
            self.divides("num_attention_heads", "hidden_size")

    @property
    def head_width(self) -> int:
        """Features of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Leading dense layers, then routed and shared experts."""
    layers = [
        DecoderLayer(
            config.hidden_size, config.rms_norm_eps, _attention(config, layout), _routed.mlp(config, n, layout)
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=rotated_part(config, config.head_width), layout=layout)


def _attention(config: Config, layout: Layout) -> GroupedQueryAttention:
    sizes = (config.hidden_size, config.num_attention_heads, config.key_value_heads, config.head_width)
    rest: dict[str, Any] = {"qkv_bias": config.attention_bias, "layout": layout}
    if config.use_qk_norm:
        return NormedGroupedQueryAttention(*sizes, epsilon=config.rms_norm_eps, **rest)
    return GroupedQueryAttention(*sizes, **rest)


weights = _routed.weights
drops = _routed.drops
