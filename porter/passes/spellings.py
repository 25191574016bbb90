"""Other ways to write standard operators, for front ends that lack one: a table of small functions.

A spelling gives the very numbers of its operator, or numbers as near to the true ones: those that round were measured
(tests/passes/test_spellings.py). It gives None for a node that it does not fit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from porter.graph import Graph, Operators, cast, constant_of, element_type

FLOAT, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL
INTEGERS = frozenset({ir.DataType.INT32, INT64})
FLOATS = frozenset({FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

Dimensions = Sequence[int | str | None]
Spelling = Callable[..., Any]  # (place, *inputs) → the results of the operator, or None
SPELLINGS: dict[str, list[Spelling]] = {}


@dataclass(frozen=True)
class Place:
    """The node that is spelled out, and the graph that its spelling goes into."""

    graph: Graph
    node: ir.Node
    shapes: Callable[[ir.Value], Dimensions | None]

    @property
    def op(self) -> Operators:
        return self.graph.op

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attributes[name].value if name in self.node.attributes else default

    def constant(self, value: float | bool, like: ir.Value) -> ir.Value:
        return self.graph.constant(value, element_type(like))

    def axis(self, of: ir.Value, default: int = -1) -> int | None:
        """The node's axis, counted from the front; None where the rank is not known."""
        shape = self.shapes(of)
        return None if shape is None else int(self.attribute("axis", default)) % len(shape)

    def last(self, of: ir.Value) -> int | None:
        """The size of the last axis, where it is a number."""
        shape = self.shapes(of)
        return shape[-1] if shape and isinstance(shape[-1], int) else None


def spelling(op_type: str) -> Callable[[Spelling], Spelling]:
    """Adds a spelling of the operator: those that were added earlier are preferred."""

    def add(build: Spelling) -> Spelling:
        SPELLINGS.setdefault(op_type, []).append(build)
        return build

    return add


# ------------------------------------------------------------------------------ comparisons and logic


@spelling("LessOrEqual")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    return at.op.GreaterOrEqual(b, a)


@spelling("GreaterOrEqual")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    return at.op.LessOrEqual(b, a)


@spelling("LessOrEqual")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    """Of whole numbers only: a comparison with what is no number is false, and so would be its opposite."""
    return at.op.Not(at.op.Greater(a, b)) if element_type(a) in INTEGERS else None


@spelling("GreaterOrEqual")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    return at.op.Not(at.op.Less(a, b)) if element_type(a) in INTEGERS else None


@spelling("LessOrEqual")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    return at.op.Or(at.op.Less(a, b), at.op.Equal(a, b))


@spelling("GreaterOrEqual")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    return at.op.Or(at.op.Greater(a, b), at.op.Equal(a, b))


@spelling("Less")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    return at.op.Greater(b, a)


@spelling("Greater")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    return at.op.Less(b, a)


@spelling("Not")
def _(at: Place, x: ir.Value) -> Any:
    return at.op.Equal(x, at.constant(False, x))


@spelling("Not")
def _(at: Place, x: ir.Value) -> Any:
    return at.op.Less(at.op.Cast(x, to=FLOAT), at.graph.constant(0.5, FLOAT))


@spelling("And")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    return at.op.Cast(at.op.Mul(at.op.Cast(a, to=FLOAT), at.op.Cast(b, to=FLOAT)), to=BOOL)


@spelling("And")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    return at.op.Where(a, b, at.constant(False, a))


@spelling("Or")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    return at.op.Cast(at.op.Add(at.op.Cast(a, to=FLOAT), at.op.Cast(b, to=FLOAT)), to=BOOL)


@spelling("Or")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    return at.op.Where(a, at.constant(True, a), b)


@spelling("Where")
def _(at: Place, condition: ir.Value, x: ir.Value, y: ir.Value) -> Any:
    """Of truth values; of numbers there is none, since nought times what is not finite is no number."""
    if element_type(x) != BOOL:
        return None
    return at.op.Or(at.op.And(condition, x), at.op.And(at.op.Not(condition), y))


@spelling("Where")
def _(at: Place, condition: ir.Value, x: ir.Value, y: ir.Value) -> Any:
    """Whole numbers: exact, since even what overflows comes back."""
    if element_type(x) not in INTEGERS:
        return None
    chosen = at.op.Cast(condition, to=element_type(x))
    return at.op.Add(y, at.op.Mul(chosen, at.op.Sub(x, y)))


@spelling("Max")
def _(at: Place, a: ir.Value, b: ir.Value, *more: ir.Value) -> Any:
    """Two whole numbers (opset 11 has it for floats only)."""
    if more or element_type(a) not in INTEGERS:
        return None
    return at.op.Where(at.op.Greater(a, b), a, b)


@spelling("Min")
def _(at: Place, a: ir.Value, b: ir.Value, *more: ir.Value) -> Any:
    if more or element_type(a) not in INTEGERS:
        return None
    return at.op.Where(at.op.Less(a, b), a, b)


# ------------------------------------------------------------------------------ arithmetic


@spelling("Sub")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    return at.op.Add(a, at.op.Neg(b))


@spelling("Neg")
def _(at: Place, x: ir.Value) -> Any:
    return at.op.Mul(x, at.constant(-1, x))


@spelling("Reciprocal")
def _(at: Place, x: ir.Value) -> Any:
    return at.op.Div(at.constant(1, x), x)


@spelling("Sigmoid")
def _(at: Place, x: ir.Value) -> Any:
    """1 / (1 + exp(-x)) in float32: where exp overflows, the result is the nought that it should be."""
    one = at.graph.constant(1, FLOAT)
    return cast(at.graph, at.op.Div(one, at.op.Add(one, at.op.Exp(at.op.Neg(_wide(at, x))))), element_type(x))


@spelling("Sigmoid")
def _(at: Place, x: ir.Value) -> Any:
    """(tanh(x / 2) + 1) / 2: near nought the error is one of float32's steps at one, not at the result."""
    half, one = at.graph.constant(0.5, FLOAT), at.graph.constant(1, FLOAT)
    wide = at.op.Mul(at.op.Add(at.op.Tanh(at.op.Mul(_wide(at, x), half)), one), half)
    return cast(at.graph, wide, element_type(x))


@spelling("Softmax")
def _(at: Place, x: ir.Value) -> Any:
    """The definition in float32, the largest taken off first, so that nothing overflows."""
    if at.attribute("axis", -1) != -1:
        return None
    wide = _wide(at, x)
    grown = at.op.Exp(at.op.Sub(wide, at.op.ReduceMax(wide, axes=[-1], keepdims=1)))
    total = at.op.ReduceSum(grown, at.graph.ints(-1), keepdims=1)
    return cast(at.graph, at.op.Div(grown, total), element_type(x))


@spelling("ReduceMean")
def _(at: Place, x: ir.Value) -> Any:
    """The sum over the last axis, divided by its size."""
    count = at.last(x)
    if at.attribute("axes") not in ((-1,), [-1]) or count is None or element_type(x) != FLOAT:
        return None
    total = at.op.ReduceSum(x, at.graph.ints(-1), keepdims=at.attribute("keepdims", 1))
    return at.op.Div(total, at.graph.constant(count, FLOAT))


@spelling("Floor")
def _(at: Place, x: ir.Value) -> Any:
    """Cast cuts towards nought: one less where that is above x. For numbers that int64 holds."""
    whole = at.op.Cast(at.op.Cast(x, to=INT64), to=element_type(x))
    return at.op.Sub(whole, at.op.Cast(at.op.Greater(whole, x), to=element_type(x)))


@spelling("Gemm")
def _(at: Place, a: ir.Value, b: ir.Value, c: ir.Value | None = None) -> Any:
    if at.attribute("alpha", 1.0) != 1.0 or at.attribute("beta", 1.0) != 1.0:
        return None
    a, b = (
        at.op.Transpose(value, perm=[1, 0]) if at.attribute(name, 0) else value
        for name, value in (("transA", a), ("transB", b))
    )
    product = at.op.MatMul(a, b)
    return product if c is None else at.op.Add(product, c)


# ------------------------------------------------------------------------------ shapes and places


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


def _wide(at: Place, x: ir.Value) -> ir.Value:
    return cast(at.graph, x, FLOAT)
