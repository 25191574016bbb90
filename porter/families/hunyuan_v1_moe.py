"""Hunyuan-A13B: heads normed behind the rotation, a softmax router in float32, one shared expert in every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from porter.blocks.attention_kinds import TurnedNormedGroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.blocks.moe import Experts, NormedFloat32Router, SharedMixtureOfExperts
from porter.errors import FamilyError
from porter.families._common import decoder, renamed, stacked_experts
from porter.families._config import DecoderConfig
from porter.families._rope import stretched_rope_of
from porter.layout import ONE_CARD, Layout
from porter.weights import Rule

MODEL_TYPES = ("hunyuan_v1_moe",)


@dataclass(frozen=True)
class Config(DecoderConfig):
    """transformers' HunYuanMoEV1Config."""

    aliases: ClassVar = {"num_experts_per_tok": "moe_topk", "num_local_experts": "num_experts"}

    vocab_size: int = 290943
    rms_norm_eps: float = 1e-5
    head_dim: int | None = None
    attention_bias: bool = False
    num_experts: int = 1
    moe_topk: int | list[int] = 1

    def check(self) -> None:
        super().check()
        if self.head_dim is None:
            self.divides("num_attention_heads", "hidden_size")
        counts = self.moe_topk if isinstance(self.moe_topk, list) else [self.moe_topk] * self.num_hidden_layers
        if len(counts) != self.num_hidden_layers or not all(0 < count <= self.num_experts for count in counts):
            message = f"config.json: moe_topk is {self.moe_topk}, with num_experts = {self.num_experts}"
            raise FamilyError(message, "it must be a number of experts, or one for each layer")

    @property
    def width(self) -> int:
        """How wide a head is."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def top_k(self, layer: int) -> int:
        """How many experts a token meets."""
        return self.moe_topk[layer] if isinstance(self.moe_topk, list) else self.moe_topk


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention with normed heads, routed experts and a shared one in every layer."""
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            TurnedNormedGroupedQueryAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.key_value_heads,
                config.width,
                epsilon=config.rms_norm_eps,
                qkv_bias=config.attention_bias,
                output_bias=config.attention_bias,
                layout=layout,
            ),
            _experts(config, config.top_k(n), layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    rope = stretched_rope_of(config, config.width)
    return decoder(config, layers, rotated=config.width, rope=rope, layout=layout)


def _experts(config: Config, top_k: int, layout: Layout) -> SharedMixtureOfExperts:
    hidden, inner, experts = config.hidden_size, config.intermediate_size, config.num_experts
    return SharedMixtureOfExperts(
        NormedFloat32Router(hidden, experts, top_k),
        Experts(hidden, inner, experts, top_k, layout=layout),
        GatedMLP(hidden, inner, layout=layout, open=layout.tp > 1),
    )


def weights(config: Config) -> tuple[Rule, ...]:
    """The router, the shared expert and the norms of heads have names of their own on disk."""
    hidden, inner, experts = config.hidden_size, config.intermediate_size, config.num_experts
    shapes = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    shared = (
        renamed(f"*.mlp.shared_experts.{name}.weight", f"*.mlp.shared_mlp.{name}.weight", *shape)
        for name, shape in shapes.items()
    )
    return (
        renamed("*.mlp.gate.weight", "*.mlp.gate.wg.weight", experts, hidden),
        *shared,
        renamed("*.q_norm.weight", "*.query_layernorm.weight", config.width),
        renamed("*.k_norm.weight", "*.key_layernorm.weight", config.width),
        *stacked_experts("mlp", experts, hidden, inner, gate="gate_proj", up="up_proj", down="down_proj"),
    )
