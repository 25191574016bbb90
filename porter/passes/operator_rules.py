"""Rules about what single operators may be given; `checks` says how they are called."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from porter.graph import all_nodes, constant_of
from porter.target import Frontend


def matmul_batch(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """MatMul's operands have at least two dimensions, and batch dimensions that are equal or all 1 on one side."""
    for node in _those(model, "MatMul"):
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
    for node in _those(model, "Gather", "GatherElements", "GatherND"):
        indices = constant_of(node.inputs[1])
        if indices is not None and (indices < 0).any():
            yield f"{node.name}: {node.op_type} with a negative index"


def slice_last_axis_step_one(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """Slice does not step on the last axis and does not cut a vector."""
    for node in _those(model, "Slice"):
        rank = len(node.inputs[0].shape) if node.inputs[0] is not None and node.inputs[0].shape is not None else None
        steps = constant_of(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
        axes = constant_of(node.inputs[3]) if len(node.inputs) > 3 else None
        if rank is None or steps is None or axes is None:
            yield f"{node.name}: Slice whose rank, axes or steps are not known"
        elif rank == 1 or any(step != 1 and axis in (-1, rank - 1) for axis, step in zip(axes, steps, strict=True)):
            yield f"{node.name}: Slice of a vector or with a step on the last axis"


def slice_steps_positive(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """Slice goes forward."""
    for node in _those(model, "Slice"):
        steps = constant_of(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
        if steps is None or (steps < 1).any():
            yield f"{node.name}: Slice with a step that is negative or not known"


def topk_k_constant(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """How many TopK takes is a constant."""
    for node in _those(model, "TopK"):
        if constant_of(node.inputs[1]) is None:
            yield f"{node.name}: TopK whose k is computed in the graph"


def reduce_axes_as_attribute(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """The axes of a reduction are an attribute, but for ReduceSum, which takes them as an input."""
    for node in all_nodes(model.graph):
        reduces = not node.domain and node.op_type.startswith("Reduce") and node.op_type != "ReduceSum"
        if reduces and len(node.inputs) > 1:
            yield f"{node.name}: {node.op_type} with its axes as an input"


def scatternd_no_reduction(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """ScatterND and ScatterElements put values in place and reduce nothing."""
    for node in _those(model, "ScatterND", "ScatterElements"):
        if (reduction := _reduction(node)) != "none":
            yield f"{node.name}: {node.op_type} with reduction {reduction}"


def scatter_reduction_add_only(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """ScatterND and ScatterElements put in place or add."""
    for node in _those(model, "ScatterND", "ScatterElements"):
        if (reduction := _reduction(node)) not in ("none", "add"):
            yield f"{node.name}: {node.op_type} with reduction {reduction}"


def _those(model: ir.Model, *names: str) -> Iterator[ir.Node]:
    return (node for node in all_nodes(model.graph) if not node.domain and node.op_type in names)


def _reduction(node: ir.Node) -> str:
    return node.attributes["reduction"].as_string() if "reduction" in node.attributes else "none"


def _dimension(dimension: object) -> object:
    return dimension if isinstance(dimension, int) else str(getattr(dimension, "value", dimension))


def _all_one(dimensions: list[object]) -> bool:
    return all(d == 1 for d in dimensions)
