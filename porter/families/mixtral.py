"""Mixtral (arXiv:2401.04088): Mistral's attention, a softmax router and routed experts in every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from porter.blocks.attention import GroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.moe import Experts, MixtureOfExperts, Router
from porter.families._common import decoder, stacked_experts
from porter.families._config import DecoderConfig
from porter.layout import ONE_CARD, Layout
from porter.weights import Piece, Rule

MODEL_TYPES = ("mixtral",)


@dataclass(frozen=True)
class Config(DecoderConfig):
    """transformers' MixtralConfig."""

    default_theta = 1000000.0
    aliases: ClassVar = {"num_experts": "num_local_experts"}

    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 4096 * 32
    rms_norm_eps: float = 1e-5
    head_dim: int | None = None
    sliding_window: int | None = None
    num_experts_per_tok: int = 2
    num_local_experts: int = 8

    def check(self) -> None:
        super().check()
        self.at_most("num_experts_per_tok", self.num_local_experts, "num_local_experts")
        if self.head_dim is None:
            self.divides("num_attention_heads", "hidden_size")


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention and normalised top-k experts in every layer."""
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            GroupedQueryAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.key_value_heads,
                head_dim,
                window=config.sliding_window,
                layout=layout,
            ),
            MixtureOfExperts(
                Router(config.hidden_size, config.num_local_experts, config.num_experts_per_tok, normalize=True),
                Experts(
                    config.hidden_size,
                    config.intermediate_size,
                    config.num_local_experts,
                    config.num_experts_per_tok,
                    layout=layout,
                ),
            ),
        )
        for _ in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=head_dim, layout=layout)


def weights(config: Config) -> tuple[Rule, ...]:
    """The block is `block_sparse_moe` on disk, with w1 the gate, w3 the up and w2 the down projection."""
    experts, hidden = config.num_local_experts, config.hidden_size
    gate = (experts, hidden)
    router = Rule(
        "*.mlp.gate.weight", ((Piece("*.mlp.gate.weight", gate),), (Piece("*.block_sparse_moe.gate.weight", gate),))
    )
    stacked = stacked_experts(
        "block_sparse_moe", experts, hidden, config.intermediate_size, gate="w1", up="w3", down="w2"
    )
    return (router, *stacked)
