"""The rules that a lowered graph must keep, by the names that front ends' TOMLs call them by.

Each looks at a graph with inferred shapes and says what breaks it; the front end's own reason goes into the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import onnx_ir as ir

from porter.errors import TargetError, known_names
from porter.graph import all_nodes
from porter.passes.custom_checks import custom_operators
from porter.passes.operator_rules import (
    gather_indices_non_negative,
    matmul_batch,
    reduce_axes_as_attribute,
    scatter_reduction_add_only,
    scatternd_no_reduction,
    slice_last_axis_step_one,
    slice_steps_positive,
    topk_k_constant,
)
from porter.passes.size_rules import (
    batch_one,
    int64_fits_int32,
    no_data_dependent_shapes,
    no_zero_size_constants,
    static_shapes_only,
)
from porter.passes.taken import refusal
from porter.target import Frontend

Rule = Callable[[ir.Model, Frontend], Iterator[str]]


def check(model: ir.Model, frontend: Frontend) -> None:
    """Raises TargetError naming the node, the rule and its reason for the first rule that is broken."""
    if (written := model.graph.opset_imports.get("", 0)) != frontend.opset:
        message = f"{frontend.name} takes opset {frontend.opset}, this graph is of opset {written}"
        raise TargetError(message, "its passes must end with one that writes that opset")
    for wanted in frontend.checks:
        rule = RULES.get(wanted.name)
        if rule is None:
            raise TargetError(f"{frontend.name}: no check is called '{wanted.name}'", known_names(wanted.name, RULES))
        for complaint in rule(model, frontend):
            message = f"{frontend.name} does not take this graph: {complaint}"
            raise TargetError(message, f"{wanted.reason} ({wanted.source}){_way_out(wanted.name, model)}")


def known_operators(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """Every operator, with its types and ranks, is in the front end's table."""
    opset = model.graph.opset_imports[""]
    assumed = ", of which no list is published: this one is assumed" if frontend.assumed else ""
    for node in all_nodes(model.graph):
        refused = refusal(node, frontend, opset)
        if refused is not None:
            name = f"{node.domain}::{node.op_type}" if node.domain else f"{node.op_type} (opset {opset})"
            yield f"{node.name}: {name}: {refused}{assumed}"


def no_empty_names(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """No input is left out and every output has a name."""
    for node in all_nodes(model.graph):
        if any(value is None for value in node.inputs) or any(not value.name for value in node.outputs):
            yield f"{node.name}: {node.op_type} has an input or output without a name"


def no_float64(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """No value is in float64."""
    for node in all_nodes(model.graph):
        if any(value.dtype == ir.DataType.DOUBLE for value in node.outputs):
            yield f"{node.name}: {node.op_type} gives float64"


def no_functions_but_meanings(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """The only functions in the file are the meanings of operators that the front end has itself."""
    for domain, name, _ in model.functions:
        if f"{domain}::{name}" not in frontend.custom_operators:
            yield f"function {domain}::{name} is not an operator of {frontend.name}"


def model_under_limit(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """The .onnx file, without external data, is no larger than the front end reads."""
    size, most = ir.to_proto(model).ByteSize(), frontend.max_model_bytes
    if most is not None and size > most:
        yield f"the graph alone has {size:,} bytes, the most is {most:,}"


RULES: Mapping[str, Rule] = {
    rule.__name__.replace("_", "-"): rule
    for rule in (
        known_operators,
        custom_operators,
        no_empty_names,
        no_zero_size_constants,
        no_float64,
        no_functions_but_meanings,
        model_under_limit,
        static_shapes_only,
        no_data_dependent_shapes,
        batch_one,
        int64_fits_int32,
        matmul_batch,
        gather_indices_non_negative,
        slice_last_axis_step_one,
        slice_steps_positive,
        topk_k_constant,
        reduce_axes_as_attribute,
        scatternd_no_reduction,
        scatter_reduction_add_only,
    )
}


def _way_out(rule: str, model: ir.Model) -> str:
    """Graphs of fixed sizes compute no shapes, so they ask for fewer operators."""
    inputs = [value.shape for value in model.graph.inputs if value.shape is not None]
    is_open = any(not isinstance(dimension, int) for shape in inputs for dimension in shape)
    return "; fixed sizes (--shape) ask for fewer operators" if rule == "known-operators" and is_open else ""
