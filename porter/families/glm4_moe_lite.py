"""GLM-4.7-Flash: DeepSeek-V3's latent attention and experts, in layers that `mlp_layer_types` names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from porter.blocks.decoder import Decoder, DecoderLayer
from porter.families import _latent, _routed
from porter.families._common import decoder
from porter.layout import ONE_CARD, Layout
from porter.weights import Rule

MODEL_TYPES = ("glm4_moe_lite",)
FORMS = _latent.FORMS


@dataclass(frozen=True)
class Config(_latent.LatentConfig, _routed.ListedConfig):
    """transformers' Glm4MoeLiteConfig. `first_k_dense_replace` is published too, but it never reads it, so neither do
    we.
    """

    aliases: ClassVar = {"num_local_experts": "n_routed_experts", "head_dim": "qk_rope_head_dim"}

    vocab_size: int = 154880
    hidden_size: int = 2048
    intermediate_size: int = 10240
    moe_intermediate_size: int = 1536
    num_hidden_layers: int = 47
    num_attention_heads: int = 20
    num_key_value_heads: int | None = 20
    max_position_embeddings: int = 202752
    rms_norm_eps: float = 1e-5
    n_shared_experts: int = 1
    routed_scaling_factor: float = 1.8
    q_lora_rank: int | None = 768
    qk_nope_head_dim: int = 192
    v_head_dim: int = 256
    n_group: int | None = 1
    topk_group: int | None = 1
    num_experts_per_tok: int = 4
    rope_interleave: bool = True

    def dense_by_default(self, layer: int) -> bool:
        return layer == 0


def network(config: Config, layout: Layout = ONE_CARD, form: str = "absorbed") -> Decoder:
    """Latent attention everywhere; experts or a dense MLP by layer."""
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            _latent.attention(config, form, interleaved=config.rope_interleave, layout=layout),
            _routed.mlp(config, n, layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=config.qk_rope_head_dim, layout=layout)


def weights(config: Config) -> tuple[Rule, ...]:
    """kv_b_proj in its two parts; experts one tensor each on disk, or fused."""
    return (*_latent.split_kv_b(config), *_routed.weights(config))


drops = _routed.drops


def original_cache(config: Config, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Transformers takes interleaved pairs apart before it caches them."""
    convert = _latent.latent_and_paired_rope if config.rope_interleave else _latent.latent_and_rope
    return convert(config, keys, values)
