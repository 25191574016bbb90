"""DeepSeek-V2 and V2-Lite (arXiv:2405.04434): latent attention, a softmax router, shared experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.blocks.moe import Experts, Float32Router, SharedMixtureOfExperts
from porter.families import _latent
from porter.families._common import common_drops, decoder, stacked_experts
from porter.layout import ONE_CARD, Layout
from porter.weights import Drop, Rule

MODEL_TYPES = ("deepseek_v2",)
FORMS = _latent.FORMS


@dataclass(frozen=True)
class Config(_latent.LatentConfig):
    """transformers' DeepseekV2Config. `norm_topk_prob` is in it, but its router never reads it, so neither do we."""

    aliases: ClassVar = {"num_experts": "n_routed_experts"}
    example: ClassVar = {"num_experts_per_tok": 6}  # of DeepSeek-V2 and V2-Lite

    vocab_size: int = 102400
    topk_method: str = "greedy"
    scoring_func: str = "softmax"
    mlp_bias: bool = False

    def check(self) -> None:
        self.only("topk_method", "greedy", "group_limited_greedy")
        super().check()
        self.divides("num_attention_heads", "hidden_size")  # transformers insists, though nothing needs it
        self.only("scoring_func", "softmax")

    @property
    def grouped(self) -> bool:
        return self.topk_method == "group_limited_greedy"


def network(config: Config, layout: Layout = ONE_CARD, form: str = "absorbed") -> Decoder:
    """Leading dense layers, then routed and shared experts; latent attention everywhere."""
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            _latent.attention(config, form, interleaved=True, layout=layout),
            _experts(config, layout)
            if n >= config.first_k_dense_replace
            else _dense(config, config.intermediate_size, layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=config.qk_rope_head_dim, layout=layout)


def _experts(config: Config, layout: Layout) -> SharedMixtureOfExperts:
    hidden, experts, top_k = config.hidden_size, config.n_routed_experts, config.num_experts_per_tok
    groups = (config.n_group or 1, config.topk_group or 1) if config.grouped else (1, 1)
    return SharedMixtureOfExperts(
        Float32Router(hidden, experts, top_k, config.routed_scaling_factor, *groups),
        Experts(hidden, config.moe_intermediate_size, experts, top_k, layout=layout),
        _dense(config, config.moe_intermediate_size * config.n_shared_experts, layout, open=layout.tp > 1),
    )


def _dense(config: Config, intermediate_size: int, layout: Layout, *, open: bool = False) -> GatedMLP:
    return GatedMLP(config.hidden_size, intermediate_size, config.mlp_bias, layout=layout, open=open)


def weights(config: Config) -> tuple[Rule, ...]:
    """kv_b_proj in its two parts; experts one tensor each on disk, or fused."""
    sizes = (config.n_routed_experts, config.hidden_size, config.moe_intermediate_size)
    experts = stacked_experts("mlp", *sizes, gate="gate_proj", up="up_proj", down="down_proj")
    return (*_latent.split_kv_b(config), *experts)


def drops(config: Config) -> tuple[Drop, ...]:
    """Multi-token prediction, beyond what any decoder may carry."""
    return (*common_drops(config), *_latent.dropped_prediction_layers(config))


original_cache = _latent.latent_and_rope
