"""What all layers of one forward pass share: positions, masks, shapes."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from porter.graph import Graph


@dataclass
class Step:
    """One forward pass being built. Hidden states travel as [tokens, width], tokens = batch * sequence, so that every
    linear layer is one Gemm that reads its weight as it lies on disk ([out, in]).
    """

    graph: Graph
    dtype: ir.DataType
    input_ids: ir.Value  # [batch, sequence]
    position_ids: ir.Value  # [batch, sequence]
    attention_mask: ir.Value  # [batch, total]
    _shapes: dict[tuple[str, tuple[int, ...]], ir.Value] = field(default_factory=dict)
    _masks: dict[int | None, ir.Value] = field(default_factory=dict)

    def split_heads(self, x: ir.Value, heads: int, width: int) -> ir.Value:
        """[batch * sequence, heads * width] → [batch, heads, sequence, width]."""
        op = self.graph.op
        x = op.Reshape(x, self.shape("new", heads, width))  # [batch, sequence, heads, width]
        return op.Transpose(x, perm=[0, 2, 1, 3])

    def split_past_heads(self, x: ir.Value, heads: int, width: int) -> ir.Value:
        """[batch * total, heads * width] → [batch, heads, total, width]."""
        op = self.graph.op
        x = op.Reshape(x, self.shape("total", heads, width))  # [batch, total, heads, width]
        return op.Transpose(x, perm=[0, 2, 1, 3])

    def merge_heads(self, x: ir.Value, heads: int, width: int) -> ir.Value:
        """[batch, heads, sequence, width] → [batch * sequence, heads * width]."""
        op = self.graph.op
        x = op.Transpose(x, perm=[0, 2, 1, 3])  # [batch, sequence, heads, width]
        return op.Reshape(x, self.graph.ints(-1, heads * width))

    def shape(self, tokens: str, *tail: int) -> ir.Value:
        """The shape [batch, sequence, *tail] ("new") or [batch, total, *tail] ("total"), computed once per graph."""
        key = (tokens, tail)
        if key not in self._shapes:
            with self.graph.scope("shapes"):
                front = self.graph.op.Shape(self.input_ids if tokens == "new" else self.attention_mask)
                self._shapes[key] = self.graph.op.Concat(front, self.graph.ints(*tail), axis=0)
        return self._shapes[key]

    def mask(self, window: int | None) -> ir.Value:
        """Who may look at whom: bool [batch, 1, sequence, total], causal, within `window` keys, padding excluded.

        Indices count places in the cache, not positions, as transformers' masks do: padding and a masked first
        cache place shift both sides alike. Comparisons, not Trilu, which few front ends have.
        """
        if window not in self._masks:
            with self.graph.scope("mask"):
                self._masks[window] = self._build_mask(window)
        return self._masks[window]

    def _build_mask(self, window: int | None) -> ir.Value:
        graph, op = self.graph, self.graph.op
        zero, one = graph.constant(0, ir.DataType.INT64), graph.constant(1, ir.DataType.INT64)
        total = op.Gather(op.Shape(self.attention_mask), one, axis=0)  # scalar
        sequence = op.Gather(op.Shape(self.input_ids), one, axis=0)  # scalar
        key = op.Range(zero, total, one)  # [total]
        query = op.Unsqueeze(op.Range(op.Sub(total, sequence), total, one), graph.ints(1))  # [sequence, 1]
        visible = op.LessOrEqual(key, query)  # [sequence, total]
        if window is not None:
            oldest = op.Sub(query, graph.constant(window, ir.DataType.INT64))
            visible = op.And(visible, op.Greater(key, oldest))
        real = op.Cast(self.attention_mask, to=ir.DataType.BOOL)
        return op.And(visible, op.Unsqueeze(real, graph.ints(1, 2)))  # [batch, 1, sequence, total]
