"""DeepSeek-V3.2 (arXiv:2512.02556): DeepSeek-V3 with sparse attention, whose indexer chooses the keys of a query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from porter.blocks.decoder import Decoder, DecoderLayer
from porter.families import _latent, _routed, _sparse
from porter.families._common import decoder
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("deepseek_v32",)
FORMS = _latent.FORMS


@dataclass(frozen=True)
class Config(_sparse.SparseConfig):
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
    n_group: int | None = 8
    topk_group: int | None = 4


def network(config: Config, layout: Layout = ONE_CARD, form: str = "absorbed") -> Decoder:
    """Leading dense layers, then routed and shared experts; sparse latent attention everywhere."""
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            _sparse.attention(config, form, n, layout, interleaved=0),
            _routed.mlp(config, n, layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=config.qk_rope_head_dim, layout=layout)


weights = _sparse.weights
drops = _routed.drops
original_cache = _sparse.original_cache
