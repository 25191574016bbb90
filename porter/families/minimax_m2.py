"""MiniMax-M2: queries and keys normalised over all heads, partial rotation, a sigmoid router with correction bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from porter.blocks.attention import WideNormedGroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.moe import BiasedSigmoidRouter, Experts, MixtureOfExperts
from porter.families._common import decoder, stacked_experts
from porter.families._config import DecoderConfig
from porter.families._rope import rotated_part
from porter.layout import ONE_CARD, Layout
from porter.weights import Piece, Rule

MODEL_TYPES = ("minimax_m2",)


@dataclass(frozen=True)
class Config(DecoderConfig):
    """transformers' MiniMaxM2Config."""

    default_theta = 5000000.0
    turns_parts = True
    aliases: ClassVar = {"num_experts": "num_local_experts"}

    vocab_size: int = 200064
    hidden_size: int = 3072
    intermediate_size: int = 1536
    num_hidden_layers: int = 62
    num_attention_heads: int = 48
    num_key_value_heads: int | None = 8
    head_dim: int = 128
    max_position_embeddings: int = 196608
    num_experts_per_tok: int = 8
    num_local_experts: int = 256
    rotary_dim: int | None = None

    def check(self) -> None:
        super().check()
        self.at_most("num_experts_per_tok", self.num_local_experts, "num_local_experts")


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention and routed experts in every layer."""
    hidden, experts, top_k = config.hidden_size, config.num_local_experts, config.num_experts_per_tok
    layers = [
        DecoderLayer(
            hidden,
            config.rms_norm_eps,
            WideNormedGroupedQueryAttention(
                hidden,
                config.num_attention_heads,
                config.key_value_heads,
                config.head_dim,
                epsilon=config.rms_norm_eps,
                layout=layout,
            ),
            MixtureOfExperts(
                BiasedSigmoidRouter(hidden, experts, top_k),
                Experts(hidden, config.intermediate_size, experts, top_k, layout=layout),
            ),
        )
        for _ in layout.layers(config.num_hidden_layers)
    ]
    part = config.rotary_dim / config.head_dim if config.rotary_dim else None  # as published
    return decoder(config, layers, rotated=rotated_part(config, config.head_dim, part), layout=layout)


def weights(config: Config) -> tuple[Rule, ...]:
    """The block is `block_sparse_moe` on disk, with Mixtral's names; the bias stands beside the router there."""
    experts, hidden = config.num_local_experts, config.hidden_size
    names, width = ("*.mlp", "*.block_sparse_moe"), (experts,)
    gate = tuple((Piece(f"{name}.gate.weight", (experts, hidden)),) for name in names)
    bias = tuple((Piece(f"{name}.e_score_correction_bias", width),) for name in names)
    stacked = stacked_experts(
        "block_sparse_moe", experts, hidden, config.intermediate_size, gate="w1", up="w3", down="w2"
    )
    return (Rule("*.mlp.gate.weight", gate), Rule("*.mlp.gate.e_score_correction_bias", bias), *stacked)
