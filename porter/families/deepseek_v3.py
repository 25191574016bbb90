"""DeepSeek-V3 and R1 (arXiv:2412.19437), Kimi-K2: latent attention, sigmoid router with correction bias and groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from porter.blocks.decoder import Decoder, DecoderLayer
from porter.families import _latent, _routed
from porter.families._common import decoder
from porter.layout import ONE_CARD, Layout
from porter.weights import Rule

MODEL_TYPES = ("deepseek_v3",)
FORMS = _latent.FORMS


@dataclass(frozen=True)
class Config(_latent.LatentConfig, _routed.BiasedConfig):
    """transformers' DeepseekV3Config."""

    aliases: ClassVar = {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"}

    vocab_size: int = 129280
    hidden_size: int = 7168
    intermediate_size: int = 18432
    moe_intermediate_size: int = 2048
    num_hidden_layers: int = 61
    num_attention_heads: int = 128
    num_key_value_heads: int | None = 128
    max_position_embeddings: int = 4096
    n_shared_experts: int = 1
    n_routed_experts: int = 256
    routed_scaling_factor: float = 2.5
    n_group: int | None = 8
    topk_group: int | None = 4
    num_experts_per_tok: int = 8
    first_k_dense_replace: int = 3
    num_nextn_predict_layers: int = 1
    rope_interleave: bool = True
    scoring_func: str = "sigmoid"
    topk_method: str = "noaux_tc"

    def check(self) -> None:
        super().check()
        self.only("scoring_func", "sigmoid")
        self.only("topk_method", "noaux_tc")


def network(config: Config, layout: Layout = ONE_CARD, form: str = "absorbed") -> Decoder:
    """Leading dense layers, then routed and shared experts; latent attention everywhere."""
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
