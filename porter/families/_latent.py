"""What the families with multi-head latent attention share: sizes, forms, and how kv_b_proj is split."""

from __future__ import annotations

import dataclasses

import numpy as np

from porter.blocks.latent_attention import (
    AbsorbedHeads,
    ExpandedHeads,
    FullRankQuery,
    Heads,
    LatentAttention,
    LowRankQuery,
)
from porter.families._config import DecoderConfig
from porter.families._rope import softmax_mscale
from porter.families._routed import RoutedConfig
from porter.layout import ONE_CARD, Layout
from porter.weights import Piece, Rule

HEADS: dict[str, type[Heads]] = {"absorbed": AbsorbedHeads, "expanded": ExpandedHeads}
FORMS = tuple(HEADS)


@dataclasses.dataclass(frozen=True)
class LatentConfig(RoutedConfig):
    """The sizes of latent heads, and the experts beside them."""

    q_lora_rank: int | None = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    attention_bias: bool = False

    def check(self) -> None:
        super().check()
        self.only("num_key_value_heads", None, self.num_attention_heads)


def attention(config: LatentConfig, form: str, *, interleaved: bool, layout: Layout = ONE_CARD) -> LatentAttention:
    """The latent attention of one layer, in one of FORMS: low ranks and the cache whole, heads a share."""
    query, scale = query_of(config, layout), softmax_scale(config)
    return LatentAttention(
        config.hidden_size, query, heads_of(config, form, layout), scale, interleaved, config.attention_bias
    )


def query_of(config: LatentConfig, layout: Layout) -> FullRankQuery | LowRankQuery:
    """The projection of queries, through a low rank where the config has one."""
    heads = config.num_attention_heads
    width, share = heads * (config.qk_nope_head_dim + config.qk_rope_head_dim), layout.divided(heads, "attention heads")
    if config.q_lora_rank is None:
        return FullRankQuery(config.hidden_size, width, share)
    return LowRankQuery(config.hidden_size, config.q_lora_rank, width, config.attention_bias, share)


def heads_of(config: LatentConfig, form: str, layout: Layout) -> Heads:
    """How queries meet the cache, in one of FORMS."""
    sizes = (config.kv_lora_rank, config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim)
    return HEADS[form](config.num_attention_heads, *sizes, layout)


def softmax_scale(config: LatentConfig) -> float:
    """What scores are multiplied by."""
    return (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5 * softmax_mscale(config)


def split_kv_b(config: LatentConfig) -> tuple[Rule, ...]:
    """W_UK and W_UV out of kv_b_proj, whose rows hold each head's key part and then its value part."""
    nope, value = config.qk_nope_head_dim, config.v_head_dim
    shape, each = (config.num_attention_heads * (nope + value), config.kv_lora_rank), nope + value
    starts = range(0, shape[0], each)
    source = "*.kv_b_proj.weight"
    keys = tuple(Piece(source, shape, start, start + nope) for start in starts)
    values = tuple(Piece(source, shape, start + nope, start + each) for start in starts)
    return (Rule("*.kv_b_proj_key", (keys,)), Rule("*.kv_b_proj_value", (values,)))


def latent_and_rope(config: DecoderConfig, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Transformers caches the latent as keys and the rotated part as values; the port holds them side by side."""
    return (np.concatenate([keys, values], axis=-1),)


def latent_and_paired_rope(config: DecoderConfig, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same where transformers has taken neighbouring pairs apart: the port keeps them neighbours."""
    half = values.shape[-1] // 2
    pairs = np.stack([values[..., :half], values[..., half:]], axis=-1)
    return latent_and_rope(config, keys, pairs.reshape(values.shape))
