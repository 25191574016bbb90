"""Phi-3 and Phi-4 (arXiv:2404.14219): projections fused on disk, optionally LongRoPE over a part of each head."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention import GroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.blocks.rope import Rope
from porter.blocks.rope_kinds import LongRope
from porter.errors import FamilyError
from porter.families._common import decoder, fused
from porter.families._config import DecoderConfig
from porter.families._rope import rope_of, rotated_part
from porter.layout import ONE_CARD, Layout
from porter.weights import Rule

MODEL_TYPES = ("phi3",)


@dataclass(frozen=True)
class Config(DecoderConfig):
    """transformers' Phi3Config."""

    turns_parts = True

    vocab_size: int = 32064
    hidden_size: int = 3072
    intermediate_size: int = 8192
    max_position_embeddings: int = 4096
    original_max_position_embeddings: int | None = 4096
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = None

    def check(self) -> None:
        super().check()
        self.divides("num_attention_heads", "hidden_size")

    @property
    def head_dim(self) -> int:
        """How wide a head is."""
        return self.hidden_size // self.num_attention_heads


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention and a gated MLP in every layer."""
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            GroupedQueryAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.key_value_heads,
                config.head_dim,
                window=config.sliding_window,
                layout=layout,
            ),
            GatedMLP(config.hidden_size, config.intermediate_size, layout=layout),
        )
        for _ in layout.layers(config.num_hidden_layers)
    ]
    turned = rotated_part(config, config.head_dim)
    return decoder(config, layers, rotated=turned, rope=_rope(config, turned), layout=layout)


def _rope(config: Config, turned: int) -> Rope:
    """What transformers takes for these models: a plain rotation, or LongRoPE (it reads "yarn" as LongRoPE, too)."""
    rope = rope_of(config, turned)
    if type(rope) not in (Rope, LongRope):
        message = f"config.json: rope_type asks for {type(rope).__name__}, which {config.model_type} is not known with"
        raise FamilyError(message, "known: default, longrope")
    return rope


def weights(config: Config) -> tuple[Rule, ...]:
    """Queries, keys and values are one tensor on disk, gate and up another."""
    hidden, inner = config.hidden_size, config.intermediate_size
    keys = config.key_value_heads * config.head_dim
    return (
        *fused("*.self_attn.qkv_proj", hidden, q_proj=hidden, k_proj=keys, v_proj=keys),
        *fused("*.mlp.gate_up_proj", hidden, gate_proj=inner, up_proj=inner),
    )
