"""RotaryEmbedding(x, cos, sin) {interleaved, dim}: x [B, H, S, R], cos and sin [B, 1, S, R / 2]."""

from __future__ import annotations

import onnx_ir as ir

from porter.dialect.function import function
from porter.graph import Graph


@function("RotaryEmbedding")
def ROTARY_EMBEDDING(
    graph: Graph, x: ir.Value, cos: ir.Value, sin: ir.Value, *, interleaved: int, dim: int
) -> ir.Value:
    """Rotates pairs of features: (i, i + R/2), or neighbours (2i, 2i + 1) when interleaved. The layout is kept, as in
    ONNX's own RotaryEmbedding (opset 23).
    """
    op = graph.op
    if interleaved:
        pairs = op.Reshape(x, graph.ints(0, 0, -1, dim // 2, 2))  # [B, H, S, R/2, 2]
        first, second = (op.Squeeze(part, graph.ints(-1)) for part in op.Split(pairs, axis=-1, outputs=2))
    else:
        first, second = op.Split(x, axis=-1, outputs=2)
    turned = [op.Sub(op.Mul(first, cos), op.Mul(second, sin)), op.Add(op.Mul(second, cos), op.Mul(first, sin))]
    if not interleaved:
        return op.Concat(*turned, axis=-1)
    pairs = op.Concat(*(op.Unsqueeze(t, graph.ints(-1)) for t in turned), axis=-1)
    return op.Reshape(pairs, graph.ints(0, 0, -1, dim))
