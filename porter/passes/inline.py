"""Bodies in ONNX text, put in a call's place: how a mapping is written out, and its vendor operators are defined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference
import onnx_ir as ir

from porter.errors import TargetError
from porter.graph import DOMAIN, Graph
from porter.schema import OPSET
from porter.target import CustomOperator, Frontend, OperatorMapping
from porter.target.custom import STANDARD_DOMAINS

CONSTANTS = {  # attributes of Constant
    "value_int": ir.DataType.INT64,
    "value_ints": ir.DataType.INT64,
    "value_float": ir.DataType.FLOAT,
    "value_floats": ir.DataType.FLOAT,
}


def emit_body(
    graph: Graph, frontend: Frontend, mapping: OperatorMapping, attributes: dict[str, Any], inputs: Sequence[ir.Value]
) -> list[ir.Value]:
    """Emits a mapping's body for a call with these attributes and inputs; gives its results.

    Its constants become initializers; every output of a vendor's operator has a name, since parsers connect empty ones.
    Raises TargetError for a body that is no ONNX or uses a value before it is there.
    """
    function = _parsed(frontend, mapping, attributes)
    values = dict(zip(mapping.inputs, inputs, strict=True))
    for node in function:
        given = {name: attribute.value for name, attribute in node.attributes.items()}
        missing = [v.name for v in node.inputs if v is not None and v.name not in values]
        if missing:
            message = f"{frontend.name}: the body of {mapping.function} uses '{missing[0]}' before it is there"
            raise TargetError(message, "write it in the order in which it is computed")
        operands = [None if v is None else values[str(v.name)] for v in node.inputs]
        results = _emit(graph, frontend, node, operands, given)
        values |= {str(old.name): new for old, new in zip(node.outputs, results, strict=True)}
    return [values[name] for name in mapping.outputs]


def define(model: ir.Model, operator: CustomOperator) -> None:
    """Gives the model the operator's meaning, so that the same file runs on ONNX Runtime."""
    if operator.meaning is None:
        raise TargetError(f"{operator.identifier} has no meaning", "write what it computes into the front end's TOML")
    meaning = ir.serde.deserialize_function(onnx.parser.parse_function(operator.meaning))
    model.functions.setdefault(meaning.identifier(), meaning)
    model.graph.opset_imports[operator.domain] = operator.version


def _parsed(frontend: Frontend, mapping: OperatorMapping, attributes: dict[str, Any]) -> ir.Function:
    domains = {name.partition("::")[0] for name in mapping.operators}
    imports = ", ".join(f'"{domain}" : {OPSET if domain == "" else 1}' for domain in ("", *sorted(domains)))
    text = f'<domain: "{DOMAIN}", opset_import: [{imports}]> {mapping.function} {mapping.spelled(attributes)}'
    try:
        return ir.serde.deserialize_function(onnx.parser.parse_function(text))
    except onnx.parser.ParseError as error:
        message = f"{frontend.name}: the body of {mapping.function} is no ONNX: {str(error).splitlines()[0]}"
        raise TargetError(message, "write it in ONNX's text form") from None


def _emit(
    graph: Graph, frontend: Frontend, node: ir.Node, operands: list[ir.Value | None], attributes: dict[str, Any]
) -> list[ir.Value]:
    if node.domain in STANDARD_DOMAINS:
        if node.op_type == "Constant":
            return [_constant(graph, attributes)]
        results = graph.emit(node.op_type, operands, len(node.outputs), attributes)
    else:
        operator = frontend.custom_operators[f"{node.domain}::{node.op_type}"]
        types = _result_types(operator, operands, node)
        results = graph.call(operator.name, operands, types, attributes, operator.domain)
    return list(results) if isinstance(results, tuple) else [results]


def _constant(graph: Graph, attributes: dict[str, Any]) -> ir.Value:
    ((name, value),) = attributes.items()
    if name == "value":
        return graph.constant(value.numpy(), value.dtype)
    return graph.constant(np.asarray(value), CONSTANTS[name])


def _result_types(
    operator: CustomOperator, operands: Sequence[ir.Value | None], node: ir.Node
) -> list[ir.DataType | None]:
    """The types of a vendor operator's results: those that its meaning gives for these inputs."""
    types = []
    for value in operands:
        given = onnx.TypeProto()
        if value is not None and value.dtype is not None:
            given.tensor_type.elem_type = value.dtype.value
        types.append(given)
    meaning = onnx.parser.parse_function(operator.meaning or "")
    attributes = [ir.to_proto(a) for a in node.attributes.values() if isinstance(a, ir.Attr)]
    found = onnx.shape_inference.infer_function_output_types(meaning, types, attributes)
    return [ir.DataType(one.tensor_type.elem_type) if one.tensor_type.elem_type else None for one in found]
