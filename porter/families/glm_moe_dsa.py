"""GLM-5: DeepSeek-V3.2's sparse attention; some layers may see what the indexer of a layer before them chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from porter.blocks.decoder import Decoder, DecoderLayer
from porter.errors import FamilyError
from porter.families import _latent, _routed, _sparse
from porter.families._common import decoder
from porter.layout import ONE_CARD, Indivisible, Layout

MODEL_TYPES = ("glm_moe_dsa",)
FORMS = _latent.FORMS
KINDS = {"F": "full", "S": "shared"}


@dataclass(frozen=True)
class Config(_sparse.SparseConfig):
    """transformers' GlmMoeDsaConfig."""

    zeros = frozenset({"index_skip_topk_offset", "index_topk_freq"})
    aliases: ClassVar = {"num_local_experts": "n_routed_experts", "num_experts": "n_routed_experts"}

    vocab_size: int = 154880
    hidden_size: int = 6144
    intermediate_size: int = 12288
    moe_intermediate_size: int = 2048
    num_hidden_layers: int = 78
    num_attention_heads: int = 64
    num_key_value_heads: int | None = 64
    max_position_embeddings: int = 202752
    rms_norm_eps: float = 1e-5
    q_lora_rank: int = 2048
    qk_nope_head_dim: int = 192
    v_head_dim: int = 256
    n_group: int | None = 1
    topk_group: int | None = 1
    index_n_heads: int = 32
    indexer_types: list[str] | None = None
    index_topk_pattern: str | None = None
    index_topk_freq: int = 1
    index_skip_topk_offset: int = 2

    def check(self) -> None:
        super().check()
        name = "index_topk_pattern" if self.indexer_types is None and self.index_topk_pattern else "indexer_types"
        kinds = self.kinds
        if len(kinds) != self.num_hidden_layers or not set(kinds) <= set(KINDS.values()) or kinds[0] != "full":
            message = f"config.json: {name} does not name a kind for each of {self.num_hidden_layers} layers"
            raise FamilyError(message, f"known kinds: {', '.join(KINDS.values())}; the first layer is full")

    @property
    def kinds(self) -> list[str]:
        """Of each layer, whether it has an indexer of its own."""
        if self.indexer_types is not None:
            return self.indexer_types
        if self.index_topk_pattern:
            return [KINDS.get(letter, letter) for letter in self.index_topk_pattern]
        every, offset = max(self.index_topk_freq, 1), self.index_skip_topk_offset
        return ["shared" if max(n - offset + 1, 0) % every else "full" for n in range(self.num_hidden_layers)]

    def shared(self, layer: int) -> bool:
        return self.kinds[layer] == "shared"


def network(config: Config, layout: Layout = ONE_CARD, form: str = "absorbed") -> Decoder:
    """Leading dense layers, then routed and shared experts; sparse latent attention everywhere."""
    own = layout.layers(config.num_hidden_layers)
    if layout.cards > 1 and "shared" in config.kinds:
        message = "layers that see what the indexer of another layer chose are not divided over cards"
        raise Indivisible(message, "leave out --tp, --ep and --pp")
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            _sparse.attention(config, form, n, layout, interleaved=1),
            _routed.mlp(config, n, layout),
        )
        for n in own
    ]
    return decoder(config, layers, rotated=config.qk_rope_head_dim, layout=layout)


weights = _sparse.weights
drops = _routed.drops


def original_cache(config: Config, keys: np.ndarray, values: np.ndarray, *index: np.ndarray) -> tuple[np.ndarray, ...]:
    """Interleaved pairs are taken apart in the indexer's keys too."""
    width = config.qk_rope_head_dim
    rest = (_latent.latent_and_paired_rope(config, i[..., :0], i[..., :width])[0] for i in index)
    paired = (np.concatenate([turned, i[..., width:]], axis=-1) for turned, i in zip(rest, index, strict=True))
    return (*_latent.latent_and_paired_rope(config, keys, values), *paired)
