"""What the Qwen families with experts share: routed experts in every layer of a step, but for those that are named."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from porter.families._common import stacked_experts
from porter.families._config import DecoderConfig
from porter.weights import Rule


@dataclasses.dataclass(frozen=True)
class SteppedConfig(DecoderConfig):
    """Sizes of routed experts, and which layers have them."""

    aliases: ClassVar = {"num_local_experts": "num_experts"}  # how transformers 5 writes it

    head_dim: int | None = None
    decoder_sparse_step: int = 1
    moe_intermediate_size: int = 768
    num_experts_per_tok: int = 8
    num_experts: int = 128
    norm_topk_prob: bool = False
    mlp_only_layers: list[int] | None = None

    def check(self) -> None:
        super().check()
        self.at_most("num_experts_per_tok", self.num_experts, "num_experts")
        if self.head_dim is None:
            self.divides("num_attention_heads", "hidden_size")

    def routed(self, layer: int) -> bool:
        """Whether a layer has routed experts or one dense MLP."""
        return layer not in (self.mlp_only_layers or []) and (layer + 1) % self.decoder_sparse_step == 0


def weights(config: SteppedConfig) -> tuple[Rule, ...]:
    """Experts are one tensor each on disk, or fused."""
    sizes = (config.num_experts, config.hidden_size, config.moe_intermediate_size)
    return stacked_experts("mlp", *sizes, gate="gate_proj", up="up_proj", down="down_proj")
