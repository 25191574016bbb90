"""DeepSeek-V3.2 (arXiv:2512.02556): DeepSeek-V3 with sparse attention, whose indexer chooses the keys of a query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.latent_attention import LowRankQuery
from porter.blocks.sparse_attention import Indexer, SparseLatentAttention
from porter.errors import FamilyError
from porter.families import _latent, _routed
from porter.families._common import decoder
from porter.layout import ONE_CARD, Layout
from porter.weights import Rule

MODEL_TYPES = ("deepseek_v32",)
FORMS = _latent.FORMS


@dataclass(frozen=True)
class Config(_latent.LatentConfig, _routed.ListedConfig):
    """transformers' DeepseekV32Config."""

    aliases: ClassVar = {"num_local_experts": "n_routed_experts", "num_experts": "n_routed_experts"}

    vocab_size: int = 129280
    hidden_size: int = 7168
    intermediate_size: int = 18432
    moe_intermediate_size: int = 2048
    num_hidden_layers: int = 61
    num_attention_heads: int = 128
    num_key_value_heads: int | None = 128
    max_position_embeddings: int = 163840
    n_shared_experts: int = 1
    n_routed_experts: int = 256
    routed_scaling_factor: float = 2.5
    n_group: int | None = 8
    topk_group: int | None = 4
    num_experts_per_tok: int = 8
    first_k_dense_replace: int = 3
    q_lora_rank: int = 1536
    scoring_func: str = "sigmoid"
    topk_method: str = "noaux_tc"
    mlp_bias: bool = False
    index_topk: int = 2048
    index_head_dim: int = 128
    index_n_heads: int = 64
    layer_types: list[str] | None = None

    def check(self) -> None:
        super().check()
        self.only("scoring_func", "sigmoid")
        self.only("topk_method", "noaux_tc")
        self.only("mlp_bias", False)
        self.only("layer_types", None, ["indexed_attention"] * self.num_hidden_layers)
        if self.index_head_dim < self.qk_rope_head_dim:
            message = f"config.json: index_head_dim is {self.index_head_dim}, less than the rotated part of a head"
            raise FamilyError(message, f"it must hold qk_rope_head_dim = {self.qk_rope_head_dim}")


def network(config: Config, layout: Layout = ONE_CARD, form: str = "absorbed") -> Decoder:
    """Leading dense layers, then routed and shared experts; sparse latent attention everywhere."""
    layers = [
        DecoderLayer(
            config.hidden_size, config.rms_norm_eps, _attention(config, form, layout), _routed.mlp(config, n, layout)
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=config.qk_rope_head_dim, layout=layout)


def _attention(config: Config, form: str, layout: Layout) -> SparseLatentAttention:
    query, heads = _latent.query_of(config, layout), _latent.heads_of(config, form, layout)
    assert isinstance(query, LowRankQuery)  # q_lora_rank is no option here
    sizes = (config.index_n_heads, config.index_head_dim, config.index_topk)
    indexer = Indexer(config.hidden_size, config.q_lora_rank, *sizes)
    scale = _latent.softmax_scale(config)
    return SparseLatentAttention(config.hidden_size, query, heads, scale, True, config.attention_bias, indexer)


def weights(config: Config) -> tuple[Rule, ...]:
    """kv_b_proj in its two parts; experts one tensor each on disk, or fused."""
    return (*_latent.split_kv_b(config), *_routed.weights(config))


drops = _routed.drops


def original_cache(config: Config, keys: np.ndarray, values: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, ...]:
    """Transformers takes interleaved pairs apart before it caches them; the indexer's keys are as they are."""
    return (*_latent.latent_and_paired_rope(config, keys, values), index)
