"""Sparse latent attention (DeepSeek-V3.2, arXiv:2512.02556, section 2.1): a small indexer says which keys a query sees.

Its keys, one narrow head a token, are part of the cache beside the latent.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porter.blocks.attention import CacheEntry
from porter.blocks.latent_attention import Heads, LatentAttention, LowRankQuery
from porter.blocks.linear import Linear
from porter.blocks.module import Module, Parameter
from porter.blocks.norm import LayerNorm
from porter.blocks.rope import Rotation
from porter.blocks.step import Step
from porter.dialect import CHOOSE
from porter.errors import GraphError
from porter.graph import cast

INDEX_EPSILON = 1e-6  # of the indexer's own norm: fixed, whatever rms_norm_eps says


class Indexer(Module):
    """Scores every key for every query, Σ_h w_h · relu(q_h · k), and keeps the best `top_k`.

    In float32 behind the projections, which stay what they are where weights are quantized: the choice hangs on them.
    """

    def __init__(
        self, hidden_size: int, query_rank: int, heads: int, head_dim: int, top_k: int, interleaved: int
    ) -> None:
        self.wq_b = Linear(query_rank, heads * head_dim)
        self.wk = Linear(hidden_size, head_dim)
        self.k_norm = LayerNorm(head_dim, INDEX_EPSILON)
        self.weights_proj = Float32Weight(heads, hidden_size)
        for part in (self.wq_b, self.wk):
            part.weight.quantizable = False
        self.heads, self.head_dim, self.top_k, self.interleaved = heads, head_dim, top_k, interleaved
        self.entry = CacheEntry("index", 1, head_dim)

    def forward(
        self, step: Step, x: ir.Value, low: ir.Value, rotation: Rotation, past: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """X [tokens, hidden_size], low [tokens, query_rank] → who sees whom [B, 1, S, T], and the indexer's keys."""
        key = step.split_heads(self.k_norm(step, self.wk(step, x)), 1, self.head_dim)
        keys = step.update(past, self._turn(step, key, rotation))  # [B, 1, T, D]
        context, visible = step.sizes.context, step.mask(None)
        total = context if isinstance(context, int) else None
        scores = self._scores(step, x, low, rotation, keys)
        return CHOOSE(step.graph, scores, visible, top_k=self.top_k, total=total), keys

    def _turn(self, step: Step, x: ir.Value, rotation: Rotation) -> ir.Value:
        return rotation.turn(step, x, self.head_dim, interleaved=self.interleaved)

    def _scores(self, step: Step, x: ir.Value, low: ir.Value, rotation: Rotation, keys: ir.Value) -> ir.Value:
        """[B, 1, S, T]."""
        graph, op = step.graph, step.graph.op
        q = self._turn(step, step.split_heads(self.wq_b(step, low), self.heads, self.head_dim), rotation)
        # the heads fold into the sequence, as in Attention: [B, 1, H * S, D]
        q = op.Reshape(cast(graph, q, ir.DataType.FLOAT), graph.ints(0, 1, -1, self.head_dim))
        wide = op.Transpose(cast(graph, keys, ir.DataType.FLOAT), perm=[0, 1, 3, 2])  # [B, 1, D, T]
        met = op.Reshape(op.MatMul(q, wide), graph.ints(0, self.heads, -1, 0))  # [B, H, S, T]
        met = op.Mul(met, graph.constant(self.head_dim**-0.5, ir.DataType.FLOAT))
        zero = graph.constant(0.0, ir.DataType.FLOAT)
        met = op.Where(op.Greater(met, zero), met, zero)  # not Relu, which fewer front ends have
        weights = op.Mul(self.weights_proj(step, x), graph.constant(self.heads**-0.5, ir.DataType.FLOAT))  # [B * S, H]
        weighted = op.Mul(met, step.split_heads(weights, self.heads, 1))  # [B, H, S, 1]
        return op.ReduceSum(weighted, graph.ints(1), keepdims=1)


class Float32Weight(Module):
    """A linear map in float32, of a weight that is stored so."""

    def __init__(self, outputs: int, inputs: int) -> None:
        self.weight = Parameter((outputs, inputs), storage="float32")

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        wide = cast(step.graph, x, ir.DataType.FLOAT)
        return step.graph.op.Gemm(wide, self.weight.value(step.graph, step.dtype), transB=1)


class SparseLatentAttention(LatentAttention):
    """Latent attention to the keys that its indexer chose."""

    kind = "latent, sparse"

    def __init__(
        self,
        hidden_size: int,
        query: LowRankQuery,
        mixer: Heads,
        scale: float,
        interleaved: bool,
        bias: bool,
        indexer: Indexer,
    ) -> None:
        super().__init__(hidden_size, query, mixer, scale, interleaved, bias)
        self.indexer = indexer
        self.cache = (*self.cache, indexer.entry)

    def seen(
        self, step: Step, x: ir.Value, low: ir.Value, rotation: Rotation, past: Sequence[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        step.chosen, keys = self.indexer(step, x, low, rotation, past[1])
        return step.chosen, [keys]


class SharingLatentAttention(LatentAttention):
    """Latent attention to the keys that the last indexer before it chose (GLM-5)."""

    kind = "latent, sparse as a layer before"

    def seen(
        self, step: Step, x: ir.Value, low: ir.Value, rotation: Rotation, past: Sequence[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        if step.chosen is None:
            raise GraphError(f"{self.path} has no indexer, and none stands before it", "begin with one that has")
        return step.chosen, []
