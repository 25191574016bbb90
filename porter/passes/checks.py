"""The rules that a lowered graph must keep, by the names that front ends' TOMLs call them by.

Each looks at a graph with inferred shapes and says what breaks it; the front end's own reason goes into the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from porter.errors import TargetError, known_names
from porter.graph import all_nodes, constant_of
from porter.passes.custom_checks import custom_operators
from porter.passes.taken import refusal
from porter.target import Frontend

Rule = Callable[[ir.Model, Frontend], Iterator[str]]


def check(model: ir.Model, frontend: Frontend) -> None:
    """Raises TargetError naming the node, the rule and its reason for the first rule that is broken."""
    for wanted in frontend.checks:
        rule = RULES.get(wanted.name)
        if rule is None:
            raise TargetError(f"{frontend.name}: no check is called '{wanted.name}'", known_names(wanted.name, RULES))
        for complaint in rule(model, frontend):
            raise TargetError(
                f"{frontend.name} does not take this graph: {complaint}", f"{wanted.reason} ({wanted.source})"
            )


def known_operators(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """Every operator, with its types, is in the front end's table."""
    opset = model.graph.opset_imports[""]
    for node in all_nodes(model.graph):
        refused = refusal(node, frontend, opset)
        if refused is not None:
            name = f"{node.domain}::{node.op_type}" if node.domain else f"{node.op_type} (opset {opset})"
            yield f"{node.name}: {name}: {refused}"


def no_empty_names(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """No input is left out and every output has a name."""
    for node in all_nodes(model.graph):
        if any(value is None for value in node.inputs) or any(not value.name for value in node.outputs):
            yield f"{node.name}: {node.op_type} has an input or output without a name"


def no_zero_size_constants(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """No initializer is empty."""
    for value in model.graph.initializers.values():
        if value.shape is not None and 0 in value.shape:
            yield f"constant '{value.name}' has no elements"


def no_float64(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """No value is in float64."""
    for node in all_nodes(model.graph):
        if any(value.dtype == ir.DataType.DOUBLE for value in node.outputs):
            yield f"{node.name}: {node.op_type} gives float64"


def matmul_batch(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """MatMul's operands have at least two dimensions, and batch dimensions that are equal or all 1 on one side."""
    for node in all_nodes(model.graph):
        if node.domain or node.op_type != "MatMul":
            continue
        shapes = [value.shape for value in node.inputs if value is not None]
        if any(shape is None for shape in shapes):
            yield f"{node.name}: the shapes of its operands are not known"
            continue
        left, right = ([_dimension(d) for d in shape] for shape in shapes if shape is not None)
        if min(len(left), len(right)) < 2:
            yield f"{node.name}: an operand has one dimension only"
        elif left[:-2] != right[:-2] and not _all_one(left[:-2]) and not _all_one(right[:-2]):
            yield f"{node.name}: batch dimensions {left[:-2]} and {right[:-2]}"


def gather_indices_non_negative(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """Constant indices of Gather are zero or more."""
    for node in all_nodes(model.graph):
        if not node.domain and node.op_type in {"Gather", "GatherElements", "GatherND"}:
            indices = constant_of(node.inputs[1])
            if indices is not None and (indices < 0).any():
                yield f"{node.name}: {node.op_type} with a negative index"


def slice_last_axis_step_one(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """Slice does not step on the last axis and does not cut a vector."""
    for node in all_nodes(model.graph):
        if node.domain or node.op_type != "Slice":
            continue
        rank = len(node.inputs[0].shape) if node.inputs[0] is not None and node.inputs[0].shape is not None else None
        steps = constant_of(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
        axes = constant_of(node.inputs[3]) if len(node.inputs) > 3 else None
        if rank is None or steps is None or axes is None:
            yield f"{node.name}: Slice whose rank, axes or steps are not known"
        elif rank == 1 or any(step != 1 and axis in (-1, rank - 1) for axis, step in zip(axes, steps, strict=True)):
            yield f"{node.name}: Slice of a vector or with a step on the last axis"


RULES: Mapping[str, Rule] = {
    rule.__name__.replace("_", "-"): rule
    for rule in (
        known_operators,
        custom_operators,
        no_empty_names,
        no_zero_size_constants,
        no_float64,
        matmul_batch,
        gather_indices_non_negative,
        slice_last_axis_step_one,
    )
}


def _dimension(dimension: object) -> object:
    return dimension if isinstance(dimension, int) else str(getattr(dimension, "value", dimension))


def _all_one(dimensions: list[object]) -> bool:
    return all(d == 1 for d in dimensions)
