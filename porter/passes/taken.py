"""Whether a front end takes a node, as ONNX has it at an opset: the operator must be there, and with these types."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from porter.schema import since
from porter.target import Frontend


def has(frontend: Frontend, op_type: str) -> bool:
    """Whether the standard operator is known at all, of whatever dtype, at the opset that the front end reads."""
    version = since(op_type, frontend.opset)
    return version is not None and frontend.has(op_type, version)


def refusal(node: ir.Node, frontend: Frontend, opset: int) -> str | None:
    """None where the node is taken at this opset, else one clause that says why it is not."""
    if node.domain:
        return frontend.takes(node.domain, node.op_type, 1, types_of(node, None), ranks_of(node))
    version = since(node.op_type, opset)
    if version is None:
        return schema_refusal(node, opset)
    schema = onnx.defs.get_schema(node.op_type, version, "")
    refused = frontend.takes("", node.op_type, version, types_of(node, schema), ranks_of(node))
    return refused or schema_refusal(node, opset)


def schema_refusal(node: ir.Node, opset: int) -> str | None:
    """None where ONNX itself has the standard operator at this opset and for these types."""
    if not onnx.defs.has(node.op_type, opset, ""):
        return f"ONNX has no such operator at opset {opset}"
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    return next(_wrong_types(node, schema, opset), None)


def attribute_refusal(node: ir.Node, opset: int) -> str | None:
    """None where the standard operator has all of the node's attributes at this opset."""
    known = onnx.defs.get_schema(node.op_type, opset, "").attributes
    return next((f"ONNX has no {name} of it at opset {opset}" for name in node.attributes if name not in known), None)


def types_of(node: ir.Node, schema: onnx.defs.OpSchema | None) -> dict[str, str]:
    """The dtype of each type parameter of the operator's schema, and of each input by position."""
    types: dict[str, str] = {}
    for i, value in enumerate(node.inputs):
        if value is None or value.dtype is None:
            continue
        types[f"input{i}"] = dtype_name(value.dtype)
        if schema is not None and schema.inputs:
            formal = schema.inputs[min(i, len(schema.inputs) - 1)]
            types.setdefault(formal.type_str, dtype_name(value.dtype))
    return types


def ranks_of(node: ir.Node) -> list[int]:
    """The ranks of a node's inputs, where they are known."""
    return [len(value.shape) for value in node.inputs if value is not None and value.shape is not None]


def dtype_name(dtype: ir.DataType | None) -> str:
    """A dtype as the targets' tables call it; "unknown" where none is known."""
    if dtype is None:
        return "unknown"
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def _wrong_types(node: ir.Node, schema: onnx.defs.OpSchema, opset: int) -> Iterator[str]:
    """What of the node's inputs and outputs ONNX itself does not allow at the opset."""
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for i, value in enumerate(values):
            if value is None or value.dtype is None or not formals:
                continue
            allowed = formals[min(i, len(formals) - 1)].types
            if f"tensor({value.dtype.name.lower()})" not in allowed:
                yield f"ONNX has it not for {dtype_name(value.dtype)} at opset {opset}"
