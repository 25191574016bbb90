"""GraniteMoe: Granite's multipliers around a softmax router and routed experts in every layer."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.decoder import Decoder
from porter.blocks.layers import ScaledLayer
from porter.blocks.moe import Experts, MixtureOfExperts, Router
from porter.families._common import decoder
from porter.families._multiplied import MultipliedConfig, attention
from porter.layout import ONE_CARD, Layout
from porter.weights import Piece, Rule

MODEL_TYPES = ("granitemoe",)


@dataclass(frozen=True)
class Config(MultipliedConfig):
    """transformers' GraniteMoeConfig."""

    num_local_experts: int = 8
    num_experts_per_tok: int = 2

    def check(self) -> None:
        super().check()
        self.at_most("num_experts_per_tok", self.num_local_experts, "num_local_experts")


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention and top-k experts in every layer.

    The softmax of the chosen logits is that of all of them, divided by the sum of the chosen.
    """
    hidden, experts, top_k = config.hidden_size, config.num_local_experts, config.num_experts_per_tok
    layers = [
        ScaledLayer(
            hidden,
            config.rms_norm_eps,
            attention(config, layout),
            MixtureOfExperts(
                Router(hidden, experts, top_k, normalize=True),
                Experts(hidden, config.intermediate_size, experts, top_k, layout=layout),
            ),
            config.residual_multiplier,
        )
        for _ in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=config.width, ends=config.ends, layout=layout)


def weights(config: Config) -> tuple[Rule, ...]:
    """The block is `block_sparse_moe` on disk, its experts stacked, by the names of old or of transformers 5."""
    experts, hidden, inner = config.num_local_experts, config.hidden_size, config.intermediate_size

    def either(target: str, old: str, new: str, *shape: int) -> Rule:
        pieces = (Piece(f"*.block_sparse_moe.{name}", shape) for name in (old, new))
        return Rule(f"*.mlp.{target}", tuple((piece,) for piece in pieces))

    return (
        either("gate.weight", "router.layer.weight", "router.weight", experts, hidden),
        either("experts.gate_up_proj", "input_linear.weight", "experts.gate_up_proj", experts, 2 * inner, hidden),
        either("experts.down_proj", "output_linear.weight", "experts.down_proj", experts, hidden, inner),
    )
