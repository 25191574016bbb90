"""ERNIE 4.5's mixture of experts: interleaved rotation, a softmax router with correction bias, shared experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from porter.blocks.attention import InterleavedGroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.blocks.moe import BiasedSoftmaxRouter, Experts, MixtureOfExperts, SharedMixtureOfExperts
from porter.families._common import common_drops, decoder, stacked_experts
from porter.families._config import DecoderConfig
from porter.layout import ONE_CARD, Layout
from porter.weights import Drop, Piece, Rule

MODEL_TYPES = ("ernie4_5_moe",)


@dataclass(frozen=True)
class Config(DecoderConfig):
    """transformers' Ernie4_5_MoeConfig."""

    default_theta = 500000.0
    zeros = frozenset({"moe_layer_start_index", "moe_num_shared_experts"})
    aliases: ClassVar = {"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"}

    vocab_size: int = 103424
    hidden_size: int = 2560
    intermediate_size: int = 12288
    num_hidden_layers: int = 28
    num_attention_heads: int = 20
    num_key_value_heads: int | None = 4
    head_dim: int | None = None
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    use_bias: bool = False
    moe_intermediate_size: int = 1536
    moe_k: int = 6
    moe_num_experts: int = 64
    moe_num_shared_experts: int = 2
    moe_layer_start_index: int = 1
    moe_layer_end_index: int = -1
    moe_layer_interval: int = 1
    moe_norm_min: float = 1e-12

    def check(self) -> None:
        super().check()
        self.only("use_bias", False)  # its head would have one too
        self.at_most("moe_k", self.moe_num_experts, "moe_num_experts")
        if self.head_dim is None:
            self.divides("num_attention_heads", "hidden_size")

    def routed(self, layer: int) -> bool:
        """Whether a layer has experts or one dense MLP."""
        last = self.num_hidden_layers - 1 if self.moe_layer_end_index == -1 else self.moe_layer_end_index
        return self.moe_layer_start_index <= layer <= last and (layer + 1) % self.moe_layer_interval == 0


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention; experts or a dense MLP by layer."""
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            InterleavedGroupedQueryAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.key_value_heads,
                head_dim,
                layout=layout,
            ),
            _experts(config, layout)
            if config.routed(n)
            else GatedMLP(config.hidden_size, config.intermediate_size, layout=layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=head_dim, layout=layout)


def _experts(config: Config, layout: Layout) -> MixtureOfExperts:
    hidden, inner, experts, top_k = (
        config.hidden_size,
        config.moe_intermediate_size,
        config.moe_num_experts,
        config.moe_k,
    )
    router = BiasedSoftmaxRouter(hidden, experts, top_k, config.moe_norm_min)
    routed = Experts(hidden, inner, experts, top_k, layout=layout)
    if not config.moe_num_shared_experts:
        return MixtureOfExperts(router, routed)
    width = inner * config.moe_num_shared_experts
    return SharedMixtureOfExperts(router, routed, GatedMLP(hidden, width, layout=layout, open=layout.tp > 1))


def weights(config: Config) -> tuple[Rule, ...]:
    """The bias is a matrix of one row beside the router on disk, and in it in memory."""
    experts, name = config.moe_num_experts, "moe_statics.e_score_correction_bias"
    bias = tuple((Piece(f"*.mlp.{where}{name}", (1, experts)),) for where in ("", "gate."))
    sizes = (experts, config.hidden_size, config.moe_intermediate_size)
    stacked = stacked_experts("mlp", *sizes, gate="gate_proj", up="up_proj", down="down_proj")
    return (Rule("*.mlp.gate.e_score_correction_bias", bias), *stacked)


def drops(config: Config) -> tuple[Drop, ...]:
    """Multi-token prediction, beyond what any decoder may carry."""
    reason = "multi-token prediction, not part of the model's own forward pass"
    return (*common_drops(config), Drop(r"model\.mtp_.*", reason))
