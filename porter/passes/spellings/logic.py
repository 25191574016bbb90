"""Comparisons, truth values and choices in others: exact, every one."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from porter.graph import element_type
from porter.passes.spellings.place import BOOL, FLOAT, INTEGERS, Place, spelling


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


@spelling("Or")
def _(at: Place, a: ir.Value, b: ir.Value) -> Any:
    return at.op.Cast(at.op.Add(at.op.Cast(a, to=FLOAT), at.op.Cast(b, to=FLOAT)), to=BOOL)


@spelling("Where")
def _(at: Place, condition: ir.Value, x: ir.Value, y: ir.Value) -> Any:
    """Of whole numbers: exact, since even what overflows comes back. Of others there is none: nought times what is not
    finite is no number.
    """
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
