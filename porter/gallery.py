"""The families that are known: what each attends with, its experts, and what its cache holds."""

from __future__ import annotations

from typing import Any

from porter.blocks.decoder import Decoder
from porter.census import census
from porter.families import Family, families

SCHEMA_VERSION = 1


def gallery() -> dict[str, Any]:
    """Every family at the sizes that its config has by default; the result is what `porter convert --list-families`
    tells.
    """
    return {"schema_version": SCHEMA_VERSION, "families": [_row(family) for family in families().values()]}


def _row(family: Family) -> dict[str, Any]:
    config = family.read({"model_type": family.model_types[0], **family.config.example})
    network = family.build(config, "auto")
    sizes = census(network)
    return {
        "family": family.name,
        "model_types": list(family.model_types),
        "attention": _attention(network),
        "window": network.window(),
        "experts": _experts(network),
        "layers": sizes.layers,
        "cache_per_token": sum(e.heads * e.width for entries in network.cache() for e in entries),
    }


def _attention(network: Decoder) -> list[str]:
    """The kinds of attention that its layers have, in the order in which they come."""
    return list(dict.fromkeys(layer.self_attn.kind for layer in network.model.layers))


def _experts(network: Decoder) -> dict[str, Any] | None:
    """Of the first layer that has experts: how many there are, how many a token takes, whether one sees them all."""
    for layer in network.model.layers:
        experts = getattr(layer.mlp, "experts", None)
        if experts is not None:
            shared = any(name.startswith("shared_expert") for name in vars(layer.mlp))
            return {"count": experts.gate_up_proj.shape[0], "per_token": experts.top_k, "shared": shared}
    return None
