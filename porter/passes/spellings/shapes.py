"""Operators that move numbers about in others that do: exact, every one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx_ir as ir

from porter.graph import constant_of, element_type
from porter.passes.spellings.place import FLOATS, INT64, INTEGERS, Place, spelling


@spelling("CastLike")
def _(at: Place, x: ir.Value, like: ir.Value) -> Any:
    return at.op.Cast(x, to=element_type(like))


@spelling("Identity")
def _(at: Place, x: ir.Value) -> Any:
    return at.op.Cast(x, to=element_type(x))


@spelling("Unsqueeze")
@spelling("Squeeze")
def _(at: Place, x: ir.Value, axes: ir.Value | None = None) -> Any:
    """A Reshape: 0 copies a size that stays where it is, -1 is the only other that need not be known."""
    before, after = at.shapes(x), at.shapes(at.node.outputs[0])
    if before is None or after is None:
        return None
    target = [
        size if isinstance(size, int) else 0 if size is not None and size == old else -1
        for size, old in itertools.zip_longest(after, before[: len(after)])
    ]
    return None if target.count(-1) > 1 else at.op.Reshape(x, at.graph.ints(*target))


@spelling("Split")
def _(at: Place, x: ir.Value, sizes: ir.Value | None = None) -> Any:
    spans, axis = _spans(at, x, sizes), at.axis(x, 0)
    if spans is None or axis is None:
        return None
    ints = at.graph.ints
    return tuple(at.op.Slice(x, ints(start), ints(end), ints(axis), ints(1)) for start, end in spans)


@spelling("Split")
def _(at: Place, x: ir.Value, sizes: ir.Value | None = None) -> Any:
    spans, axis = _spans(at, x, sizes), at.axis(x, 0)
    if spans is None or axis is None:
        return None
    return tuple(at.op.Gather(x, at.graph.ints(*range(start, end)), axis=axis) for start, end in spans)


@spelling("GatherElements")
def _(at: Place, data: ir.Value, indices: ir.Value) -> Any:
    """Along the last axis: the axes before it are a batch."""
    shape = at.shapes(data)
    if shape is None or at.axis(data, 0) != len(shape) - 1 or len(shape) < 2:
        return None
    places = at.op.Unsqueeze(indices, at.graph.ints(-1))
    return at.op.GatherND(data, places, batch_dims=len(shape) - 1)


@spelling("GatherElements")
def _(at: Place, data: ir.Value, indices: ir.Value) -> Any:
    """Along the last axis: every element is compared with every place, and what does not fit counts as nought."""
    shape, count = at.shapes(data), at.last(data)
    if shape is None or count is None or at.axis(data, 0) != len(shape) - 1 or element_type(data) not in FLOATS:
        return None
    hit = at.op.Equal(at.op.Unsqueeze(indices, at.graph.ints(-1)), at.graph.ints(*range(count)))  # [..., K, N]
    kept = at.op.Where(hit, at.op.Unsqueeze(data, at.graph.ints(-2)), at.constant(0, data))
    return at.op.ReduceSum(kept, at.graph.ints(-1), keepdims=0)


@spelling("Tile")
def _(at: Place, x: ir.Value, repeats: ir.Value) -> Any:
    """Along one axis."""
    counts = constant_of(repeats)
    if counts is None or (counts != 1).sum() != 1:
        return None
    (axis,) = (counts != 1).nonzero()[0]
    return at.op.Concat(*[x] * int(counts[axis]), axis=int(axis))


@spelling("ConstantOfShape")
def _(at: Place, shape: ir.Value) -> Any:
    value = at.node.attributes["value"].as_tensor() if "value" in at.node.attributes else ir.tensor([0.0])
    return at.op.Expand(at.graph.constant(value.numpy().reshape(()), value.dtype), shape)


@spelling("Expand")
def _(at: Place, x: ir.Value, shape: ir.Value) -> Any:
    """Times one: exact."""
    if element_type(x) not in FLOATS | INTEGERS:
        return None
    ones = ir.tensor([1], dtype=element_type(x))
    return at.op.Mul(x, at.op.ConstantOfShape(shape, value=ones))


@spelling("Range")
def _(at: Place, start: ir.Value, limit: ir.Value, delta: ir.Value) -> Any:
    """In steps of one: the running count of as many ones."""
    ones = _ones(at, start, limit, delta)
    if ones is None:
        return None
    counted = at.op.CumSum(ones, at.graph.constant(0, INT64))
    return at.op.Add(at.op.Sub(counted, at.graph.constant(1, INT64)), start)


@spelling("Range")
def _(at: Place, start: ir.Value, limit: ir.Value, delta: ir.Value) -> Any:
    """In steps of one: the places of as many ones."""
    ones = _ones(at, start, limit, delta)
    if ones is None:
        return None
    return at.op.Add(at.op.Reshape(at.op.NonZero(ones), at.graph.ints(-1)), start)


def _ones(at: Place, start: ir.Value, limit: ir.Value, delta: ir.Value) -> ir.Value | None:
    step = constant_of(delta)
    if step is None or step != 1 or element_type(start) != INT64:
        return None
    count = at.op.Reshape(at.op.Sub(limit, start), at.graph.ints(1))
    ones: ir.Value = at.op.ConstantOfShape(count, value=ir.tensor([1], dtype=INT64))
    return ones


def _spans(at: Place, x: ir.Value, sizes: ir.Value | None) -> list[tuple[int, int]] | None:
    """Where the parts of a Split begin and end."""
    shape, axis, parts = at.shapes(x), at.axis(x, 0), len(at.node.outputs)
    stated = constant_of(sizes)
    if stated is None and sizes is None and shape is not None and axis is not None:
        total = shape[axis]
        if isinstance(total, int) and total % parts == 0:
            stated = np.full(parts, total // parts)
    if stated is None:
        return None
    return list(itertools.pairwise(itertools.accumulate([0, *(int(n) for n in stated)])))
