"""CacheUpdate(cache, new): cache [B, G, past, D] and new [B, G, S, D] → [B, G, past + S, D]."""

from __future__ import annotations

import onnx_ir as ir

from porter.dialect.function import function
from porter.graph import Graph


@function("CacheUpdate")
def CACHE_UPDATE(graph: Graph, cache: ir.Value, new: ir.Value) -> ir.Value:
    """A growing cache: the new places behind the past ones."""
    return graph.op.Concat(cache, new, axis=2)
