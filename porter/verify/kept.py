"""The cache of transformers as plain tensors, layer by layer: taken out after one call, put back before the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING, DynamicLayer

Entries = tuple[
    torch.Tensor, ...
]  # keys and values [B, H, T, D], and where a layer has an indexer its keys [B, 1, T, D]


def filled(config: Any, past: Sequence[Entries] | None) -> Any:
    """A cache of transformers with these layers.

    Whatever the config says of windows, it keeps what lies before them too, as a port's does.
    """
    kinds = getattr(config, "layer_types", None) or []
    made = [_kind(name)() for name in kinds]
    cache = transformers.DynamicCache()
    if any(_indexed(layer) for layer in made):
        cache.layers, cache.layer_class_to_replicate = made, None
    for n, (keys, values, *index) in enumerate(past or ()):
        cache.update(keys, values, n)
        for tensor in index:
            cache.layers[n].update_indexer(tensor[:, 0])
    return cache


def entries_of(layer: Any) -> Entries:
    """What a layer of it holds."""
    index = getattr(layer, "indexer_keys", None)  # of layers that share another's choice there are none
    return (layer.keys, layer.values, *(() if index is None else (index[:, None],)))


def _kind(name: str) -> Any:
    kind = DYNAMIC_LAYER_TYPE_MAPPING.get(name, DynamicLayer)
    return kind if hasattr(kind, "update_indexer") else DynamicLayer


def _indexed(layer: Any) -> bool:
    return hasattr(layer, "update_indexer")
