"""Rules about sizes, and about numbers that are too large; `checks` says how they are called."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from porter.graph import all_nodes, constant_of
from porter.target import Frontend

DATA_DEPENDENT = ("NonZero", "Unique", "Compress", "NonMaxSuppression")  # how much they give, their input decides
INT32 = (-(2**31), 2**31 - 1)


def no_zero_size_constants(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """No initializer is empty."""
    for value in model.graph.initializers.values():
        if value.shape is not None and 0 in value.shape:
            yield f"constant '{value.name}' has no elements"


def static_shapes_only(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """Every dimension of every value is a number."""
    for value in model.graph.inputs:
        if not _fixed(value):
            yield f"input '{value.name}' has open sizes: give them with --shape"
    for node in all_nodes(model.graph):
        for value in node.outputs:
            if not _fixed(value):
                yield f"{node.name}: the sizes of what {node.op_type} gives are not known"


def no_data_dependent_shapes(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """What a value's size is does not hang on what another value holds."""
    for node in all_nodes(model.graph):
        if node.domain:
            continue
        if node.op_type in DATA_DEPENDENT:
            yield f"{node.name}: how much {node.op_type} gives depends on the data"
        if node.op_type in ("Loop", "Scan") and len(node.outputs) > _carried(node):
            yield f"{node.name}: {node.op_type} gathers what each turn gives, and the turns depend on the data"


def batch_one(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """The first dimension of every input is 1, or open."""
    for value in model.graph.inputs:
        if value.shape is not None and len(value.shape) > 1 and isinstance(value.shape[0], int) and value.shape[0] > 1:
            yield f"input '{value.name}' is a batch of {value.shape[0]}: give --shape batch=1"


def int64_fits_int32(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """Constants of 64 bit hold only what 32 bit hold."""
    for value in model.graph.initializers.values():
        numbers = constant_of(value) if value.dtype == ir.DataType.INT64 else None
        if numbers is not None and numbers.size and not INT32[0] <= numbers.min() <= numbers.max() <= INT32[1]:
            readers = ", ".join(str(node.name) for node, _ in value.uses())
            yield f"{readers}: constant '{value.name}' does not fit into int32"


def _fixed(value: ir.Value) -> bool:
    return value.shape is not None and all(isinstance(dimension, int) for dimension in value.shape)


def _carried(node: ir.Node) -> int:
    """How many values go round a loop; what it gives beyond them it gathers."""
    return len(node.inputs) - 2 if node.op_type == "Loop" else 0
