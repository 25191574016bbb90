"""What the families with multi-head latent attention share: sizes, forms, and how kv_b_proj is split."""

from __future__ import annotations

import dataclasses

import numpy as np

from porter.blocks.latent_attention import AbsorbedHeads, ExpandedHeads, FullRankQuery, LatentAttention, LowRankQuery
from porter.families._config import DecoderConfig
from porter.families._rope import softmax_mscale
from porter.layout import ONE_CARD, Layout
from porter.weights import Drop, Piece, Rule

HEADS = {"absorbed": AbsorbedHeads, "expanded": ExpandedHeads}
FORMS = tuple(HEADS)


@dataclasses.dataclass(frozen=True)
class LatentConfig(DecoderConfig):
    """The sizes of latent heads, and the experts beside them."""

    q_lora_rank: int | None = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    attention_bias: bool = False
    moe_intermediate_size: int = 1407
    n_routed_experts: int = 64
    n_shared_experts: int = 2
    num_experts_per_tok: int = 0  # not given
    first_k_dense_replace: int = 0
    moe_layer_freq: int = 1
    routed_scaling_factor: float = 1.0
    n_group: int | None = None
    topk_group: int | None = None
    num_nextn_predict_layers: int = 0

    def check(self) -> None:
        super().check()
        self.only("num_key_value_heads", None, self.num_attention_heads)
        self.only("moe_layer_freq", 1)
        self.at_most("num_experts_per_tok", self.n_routed_experts, "n_routed_experts")
        if self.grouped:
            self.divides("n_group", "n_routed_experts")
            self.at_most("topk_group", self.n_group or 1, "n_group")
            within = (self.topk_group or 1) * (self.n_routed_experts // (self.n_group or 1))
            self.at_most("num_experts_per_tok", within, "the experts of topk_group groups")

    @property
    def grouped(self) -> bool:
        """Whether experts are chosen from the best groups only."""
        raise TypeError(f"{type(self).__name__} must say whether its experts are grouped")


def attention(config: LatentConfig, form: str, *, interleaved: bool, layout: Layout = ONE_CARD) -> LatentAttention:
    """The latent attention of one layer, in one of FORMS: low ranks and the cache whole, heads a share."""
    heads, bias = config.num_attention_heads, config.attention_bias
    head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim
    share = layout.divided(heads, "attention heads")
    query: FullRankQuery | LowRankQuery
    if config.q_lora_rank is None:
        query = FullRankQuery(config.hidden_size, heads * head_dim, share)
    else:
        query = LowRankQuery(config.hidden_size, config.q_lora_rank, heads * head_dim, bias, share)
    sizes = (config.kv_lora_rank, config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim)
    mixer = HEADS[form](heads, *sizes, layout)
    scale = head_dim**-0.5 * softmax_mscale(config)
    return LatentAttention(config.hidden_size, query, mixer, scale, interleaved, bias)


def split_kv_b(config: LatentConfig) -> tuple[Rule, ...]:
    """W_UK and W_UV out of kv_b_proj, whose rows hold each head's key part and then its value part."""
    nope, value = config.qk_nope_head_dim, config.v_head_dim
    shape, each = (config.num_attention_heads * (nope + value), config.kv_lora_rank), nope + value
    starts = range(0, shape[0], each)
    source = "*.kv_b_proj.weight"
    keys = tuple(Piece(source, shape, start, start + nope) for start in starts)
    values = tuple(Piece(source, shape, start + nope, start + each) for start in starts)
    return (Rule("*.kv_b_proj_key", (keys,)), Rule("*.kv_b_proj_value", (values,)))


def dropped_prediction_layers(config: LatentConfig) -> tuple[Drop, ...]:
    """The multi-token-prediction layers behind the last one."""
    first = config.num_hidden_layers
    numbers = "|".join(str(n) for n in range(first, first + config.num_nextn_predict_layers))
    return (
        (Drop(rf"model\.layers\.({numbers})\..*", "multi-token prediction, not part of the model's own forward pass"),)
        if numbers
        else ()
    )


def latent_and_rope(config: DecoderConfig, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Transformers caches the latent as keys and the rotated part as values; the port holds them side by side."""
    return (np.concatenate([keys, values], axis=-1),)


def latent_and_paired_rope(config: DecoderConfig, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same where transformers has taken neighbouring pairs apart: the port keeps them neighbours."""
    half = values.shape[-1] // 2
    pairs = np.stack([values[..., :half], values[..., half:]], axis=-1)
    return latent_and_rope(config, keys, pairs.reshape(values.shape))
