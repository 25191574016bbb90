"""What the families with sparse latent attention share: sizes of the indexer, and layers that reuse its choice."""

from __future__ import annotations

import dataclasses

import numpy as np

from porter.blocks.latent_attention import LatentAttention, LowRankQuery
from porter.blocks.sparse_attention import Indexer, SharingLatentAttention, SparseLatentAttention
from porter.errors import FamilyError
from porter.families import _latent, _routed
from porter.layout import Layout
from porter.weights import Rule


@dataclasses.dataclass(frozen=True)
class SparseConfig(_latent.LatentConfig, _routed.ListedConfig):
    """DeepSeek-V3's sizes, with queries of low rank always, and an indexer beside them."""

    n_shared_experts: int = 1
    n_routed_experts: int = 256
    routed_scaling_factor: float = 2.5
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

    def shared(self, layer: int) -> bool:
        """Whether a layer sees what the last one before it with an indexer chose."""
        return False


def attention(config: SparseConfig, form: str, layer: int, layout: Layout, *, interleaved: int) -> LatentAttention:
    """The attention of a layer; `interleaved` is about the rotation of the indexer alone."""
    query, heads = _latent.query_of(config, layout), _latent.heads_of(config, form, layout)
    assert isinstance(query, LowRankQuery)  # q_lora_rank is no option here
    given = (config.hidden_size, query, heads, _latent.softmax_scale(config), True, config.attention_bias)
    if config.shared(layer):
        return SharingLatentAttention(*given)
    sizes = (config.index_n_heads, config.index_head_dim, config.index_topk)
    return SparseLatentAttention(*given, Indexer(config.hidden_size, config.q_lora_rank, *sizes, interleaved))


def weights(config: SparseConfig) -> tuple[Rule, ...]:
    """kv_b_proj in its two parts; experts one tensor each on disk, or fused."""
    return (*_latent.split_kv_b(config), *_routed.weights(config))


def original_cache(
    config: SparseConfig, keys: np.ndarray, values: np.ndarray, *index: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Transformers takes interleaved pairs apart before it caches them; the indexer's keys are as they are."""
    return (*_latent.latent_and_paired_rope(config, keys, values), *index)
