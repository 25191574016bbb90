"""DeepSeek-V3 and R1 (arXiv:2412.19437), Kimi-K2: latent attention, sigmoid router with correction bias and groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.blocks.moe import BiasedRouter, Experts, SharedMixtureOfExperts
from porter.errors import FamilyError
from porter.families import _latent
from porter.families._common import common_drops, decoder, stacked_experts
from porter.layout import ONE_CARD, Layout
from porter.weights import Drop, Rule

MODEL_TYPES = ("deepseek_v3",)
FORMS = _latent.FORMS


@dataclass(frozen=True)
class Config(_latent.LatentConfig):
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
    norm_topk_prob: bool = True
    rope_interleave: bool = True
    scoring_func: str = "sigmoid"
    topk_method: str = "noaux_tc"

    def check(self) -> None:
        super().check()
        self.only("scoring_func", "sigmoid")
        self.only("topk_method", "noaux_tc")
        if self.n_routed_experts // (self.n_group or 1) < 2:
            message = f"config.json: n_group is {self.n_group} with n_routed_experts = {self.n_routed_experts}"
            raise FamilyError(message, "a group counts by its two best experts, so it needs two")

    @property
    def grouped(self) -> bool:
        return True


def network(config: Config, layout: Layout = ONE_CARD, form: str = "absorbed") -> Decoder:
    """Leading dense layers, then routed and shared experts; latent attention everywhere."""
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            _latent.attention(config, form, interleaved=config.rope_interleave, layout=layout),
            _experts(config, layout)
            if n >= config.first_k_dense_replace
            else GatedMLP(config.hidden_size, config.intermediate_size, layout=layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=config.qk_rope_head_dim, layout=layout)


def _experts(config: Config, layout: Layout) -> SharedMixtureOfExperts:
    hidden, experts, top_k = config.hidden_size, config.n_routed_experts, config.num_experts_per_tok
    groups = (config.n_group or 1, config.topk_group or 1)
    return SharedMixtureOfExperts(
        BiasedRouter(hidden, experts, top_k, config.routed_scaling_factor, *groups, normalize=config.norm_topk_prob),
        Experts(hidden, config.moe_intermediate_size, experts, top_k, layout=layout),
        GatedMLP(hidden, config.moe_intermediate_size * config.n_shared_experts, layout=layout, open=layout.tp > 1),
    )


def weights(config: Config) -> tuple[Rule, ...]:
    """kv_b_proj in its two parts; experts one tensor each on disk, or fused."""
    sizes = (config.n_routed_experts, config.hidden_size, config.moe_intermediate_size)
    experts = stacked_experts("mlp", *sizes, gate="gate_proj", up="up_proj", down="down_proj")
    return (*_latent.split_kv_b(config), *experts)


def drops(config: Config) -> tuple[Drop, ...]:
    """Multi-token prediction, beyond what any decoder may carry."""
    return (*common_drops(config), *_latent.dropped_prediction_layers(config))


def original_cache(config: Config, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Transformers takes interleaved pairs apart before it caches them."""
    convert = _latent.latent_and_paired_rope if config.rope_interleave else _latent.latent_and_rope
    return convert(config, keys, values)
