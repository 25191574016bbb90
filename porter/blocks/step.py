"""What all layers of one forward pass share: positions, masks, shapes, and how a cache takes new tokens in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from porter.dialect import ALL_GATHER, ALL_REDUCE, CACHE_UPDATE, CACHE_WRITE
from porter.graph import Graph
from porter.layout import ONE_CARD, Layout
from porter.shape import GROWING, Sizes

Tokens = Literal["new", "total"]


@dataclass
class Step(ABC):
    """One forward pass being built. Hidden states travel as [tokens, width], tokens = batch * sequence, so that every
    linear layer is one Gemm that reads its weight as it lies on disk ([out, in]).
    """

    graph: Graph
    dtype: ir.DataType
    input_ids: ir.Value  # [batch, sequence]
    position_ids: ir.Value  # [batch, sequence]
    attention_mask: ir.Value  # [batch, total], total the places of the cache behind this pass
    sizes: Sizes = GROWING[0].sizes
    layout: Layout = ONE_CARD
    _shapes: dict[tuple[Tokens, tuple[int, ...]], ir.Value] = field(default_factory=dict)
    _masks: dict[int | None, ir.Value] = field(default_factory=dict)

    @property
    def one(self) -> int:
        """1 where it is known that every sequence has a single new token."""
        return int(self.sizes.sequence == 1)

    def reduce(self, x: ir.Value, group: str) -> ir.Value:
        """The sum over the cards of a group; itself where there is one card."""
        size = len(self.layout.group(group))
        return ALL_REDUCE(self.graph, x, group=group, size=size) if size > 1 else x

    def gather(self, x: ir.Value, group: str) -> ir.Value:
        """[…, width] of each card of a group → [..., width * cards]; itself where there is one card."""
        size = len(self.layout.group(group))
        return ALL_GATHER(self.graph, x, group=group, size=size) if size > 1 else x

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

    def shape(self, tokens: Tokens, *tail: int) -> ir.Value:
        """The shape [batch, sequence, *tail] ("new") or [batch, total, *tail] ("total"), computed once per graph."""
        key = (tokens, tail)
        if key not in self._shapes:
            with self.graph.scope("shapes"):
                self._shapes[key] = self._build_shape(tokens, tail)
        return self._shapes[key]

    def _build_shape(self, tokens: Tokens, tail: tuple[int, ...]) -> ir.Value:
        front = (self.sizes.batch, self.sizes.sequence if tokens == "new" else self.sizes.context)
        known = [size for size in front if isinstance(size, int)]
        if len(known) == len(front):
            return self.graph.ints(*known, *tail)
        found = self.graph.op.Shape(self.input_ids if tokens == "new" else self.attention_mask)
        return self.graph.op.Concat(found, self.graph.ints(*tail), axis=0)

    def mask(self, window: int | None) -> ir.Value:
        """Who may look at whom: bool [batch, 1, sequence, total], causal, within `window` keys, padding excluded."""
        if window not in self._masks:
            with self.graph.scope("mask"):
                self._masks[window] = self._build_mask(window)
        return self._masks[window]

    def _build_mask(self, window: int | None) -> ir.Value:
        """Comparisons, not Trilu, which few front ends have."""
        graph, op = self.graph, self.graph.op
        key, query = self.places()
        visible = op.LessOrEqual(key, query)
        if window is not None:
            oldest = op.Sub(query, graph.constant(window, ir.DataType.INT64))
            visible = op.And(visible, op.Greater(key, oldest))
        real = op.Cast(self.attention_mask, to=ir.DataType.BOOL)
        return op.And(visible, op.Unsqueeze(real, graph.ints(1, 2)))  # [batch, 1, sequence, total]

    def total(self) -> ir.Value:
        """How many places the cache has behind this pass: a scalar."""
        one = self.graph.constant(1, ir.DataType.INT64)
        return self.graph.op.Gather(self.graph.op.Shape(self.attention_mask), one, axis=0)

    @abstractmethod
    def places(self) -> tuple[ir.Value, ir.Value]:
        """The cache places of all keys [total] and of this pass' queries [..., sequence, 1]."""

    @abstractmethod
    def update(self, past: ir.Value, new: ir.Value) -> ir.Value:
        """The cache [batch, groups, total, width] with the new tokens [batch, groups, sequence, width] in it."""


class GrowingStep(Step):
    """The cache grows: new places behind the past ones.

    Masks count places in the cache, not positions, as transformers' do: padding and a masked first cache place
    shift both sides alike.
    """

    def places(self) -> tuple[ir.Value, ir.Value]:
        graph, op = self.graph, self.graph.op
        zero, one = graph.constant(0, ir.DataType.INT64), graph.constant(1, ir.DataType.INT64)
        total = self.total()
        sequence = op.Gather(op.Shape(self.input_ids), one, axis=0)  # scalar
        query = op.Range(op.Sub(total, sequence), total, one)
        return op.Range(zero, total, one), op.Unsqueeze(query, graph.ints(1))  # [total], [sequence, 1]

    def update(self, past: ir.Value, new: ir.Value) -> ir.Value:
        return CACHE_UPDATE(self.graph, past, new)


class PositionedStep(Step):
    """The cache has its final size from the beginning, and a token's place in it is its position.

    So no shape depends on how much was said, and a place that is written twice holds what came last. A call with fewer
    tokens than the graph's `sequence` repeats its last one: the same numbers at the same place.
    """

    def places(self) -> tuple[ir.Value, ir.Value]:
        return self._keys(), self.graph.op.Unsqueeze(
            self.position_ids, self.graph.ints(1, 3)
        )  # [batch, 1, sequence, 1]

    def update(self, past: ir.Value, new: ir.Value) -> ir.Value:
        return CACHE_WRITE(self.graph, past, new, self.position_ids, self._keys(), one=self.one)

    def _keys(self) -> ir.Value:
        """0 … context - 1."""
        graph, context = self.graph, self.sizes.context
        if isinstance(context, int):
            return graph.constant(range(context), ir.DataType.INT64)
        key: tuple[Tokens, tuple[int, ...]] = ("total", (-1,))
        if key not in self._shapes:
            with graph.scope("places"):
                zero, one = graph.constant(0, ir.DataType.INT64), graph.constant(1, ir.DataType.INT64)
                self._shapes[key] = graph.op.Range(zero, self.total(), one)
        return self._shapes[key]
