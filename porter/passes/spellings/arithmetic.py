"""Arithmetic in other arithmetic: what rounds does so in float32, and no further than its operator."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from porter.graph import cast, element_type
from porter.passes.spellings.place import FLOAT, INT64, Place, spelling


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


def _wide(at: Place, x: ir.Value) -> ir.Value:
    return cast(at.graph, x, FLOAT)
