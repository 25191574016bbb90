"""How large a network is: parameters, those that one token reads, and what its cache holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from porter.blocks.decoder import Decoder


@dataclass(frozen=True)
class Census:
    """`cache_width` counts the numbers that the first layer keeps per token."""

    parameters: int
    active_parameters: int
    layers: int
    cache_width: int


def census(network: Decoder) -> Census:
    """Counts a network; tables that are computed from config.json are no parameters, a tied weight counts once."""
    layers = list(network.model.layers)
    parameters = sum(math.prod(p.shape) for p in network.named_parameters() if p.table is None and p.learned)
    idle = 0
    for layer in layers:
        experts = getattr(layer.mlp, "experts", None)
        if experts is not None:
            routed = [math.prod(p.shape) for p in experts.parameters(experts.path)]
            count = experts.gate_up_proj.shape[0]
            idle += sum(routed) // count * (count - experts.top_k)
    width = sum(entry.heads * entry.width for entry in network.cache()[0])
    return Census(parameters, parameters - idle, len(layers), width)
