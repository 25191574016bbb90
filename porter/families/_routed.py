"""What the families with DeepSeek's experts share: shared and routed ones, chosen by sigmoid scores within groups."""

from __future__ import annotations

import dataclasses

from porter.blocks.mlp import GatedMLP
from porter.blocks.moe import BiasedRouter, Experts, SharedMixtureOfExperts
from porter.errors import FamilyError
from porter.families._common import common_drops, stacked_experts
from porter.families._config import DecoderConfig
from porter.layout import Layout
from porter.weights import Drop, Rule


@dataclasses.dataclass(frozen=True)
class RoutedConfig(DecoderConfig):
    """Sizes of shared and routed experts, and the groups that these are chosen from."""

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
        return True

    def routed(self, layer: int) -> bool:
        """Whether a layer has experts or one dense MLP."""
        return layer >= self.first_k_dense_replace


@dataclasses.dataclass(frozen=True)
class BiasedConfig(RoutedConfig):
    """DeepSeek-V3's router: sigmoid scores and a correction bias."""

    norm_topk_prob: bool = True

    def check(self) -> None:
        super().check()
        if self.n_routed_experts // (self.n_group or 1) < 2:
            message = f"config.json: n_group is {self.n_group} with n_routed_experts = {self.n_routed_experts}"
            raise FamilyError(message, "a group counts by its two best experts, so it needs two")


@dataclasses.dataclass(frozen=True)
class ListedConfig(BiasedConfig):
    """Where `mlp_layer_types` names the layers with experts."""

    mlp_layer_types: list[str] | None = None

    def check(self) -> None:
        super().check()
        kinds = self.mlp_layer_types
        if kinds is not None and (len(kinds) != self.num_hidden_layers or not {*kinds} <= {"dense", "sparse"}):
            message = f"config.json: mlp_layer_types does not name a kind for each of {self.num_hidden_layers} layers"
            raise FamilyError(message, "known kinds: dense, sparse")

    def routed(self, layer: int) -> bool:
        if self.mlp_layer_types is None:
            return not self.dense_by_default(layer)
        return self.mlp_layer_types[layer] == "sparse"

    def dense_by_default(self, layer: int) -> bool:
        """Whether a layer has one dense MLP where nothing is said."""
        return layer < self.first_k_dense_replace


def mlp(config: BiasedConfig, layer: int, layout: Layout) -> GatedMLP | SharedMixtureOfExperts:
    """A layer's experts, or its dense MLP."""
    hidden, inner, top_k = config.hidden_size, config.moe_intermediate_size, config.num_experts_per_tok
    if not config.routed(layer):
        return GatedMLP(hidden, config.intermediate_size, layout=layout)
    experts, groups = config.n_routed_experts, (config.n_group or 1, config.topk_group or 1)
    return SharedMixtureOfExperts(
        BiasedRouter(hidden, experts, top_k, config.routed_scaling_factor, *groups, normalize=config.norm_topk_prob),
        Experts(hidden, inner, experts, top_k, layout=layout),
        GatedMLP(hidden, inner * config.n_shared_experts, layout=layout, open=layout.tp > 1),
    )


def weights(config: RoutedConfig) -> tuple[Rule, ...]:
    """Experts are one tensor each on disk, or fused."""
    sizes = (config.n_routed_experts, config.hidden_size, config.moe_intermediate_size)
    return stacked_experts("mlp", *sizes, gate="gate_proj", up="up_proj", down="down_proj")


def drops(config: RoutedConfig) -> tuple[Drop, ...]:
    """The multi-token-prediction layers behind the last one, beyond what any decoder may carry."""
    first = config.num_hidden_layers
    numbers = "|".join(str(n) for n in range(first, first + config.num_nextn_predict_layers))
    reason = "multi-token prediction, not part of the model's own forward pass"
    predictors = (Drop(rf"model\.layers\.({numbers})\..*", reason),) if numbers else ()
    return (*common_drops(config), *predictors)
