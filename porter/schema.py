"""What ONNX itself says of a standard operator at the opset that porter writes."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from porter.errors import GraphError, known_names

OPSET = 17


def schema_of(op_type: str) -> onnx.defs.OpSchema:
    """The schema of a standard operator at OPSET. Raises GraphError for one that there is not."""
    if not onnx.defs.has(op_type, OPSET, ""):
        names = {s.name for s in onnx.defs.get_all_schemas()}
        raise GraphError(f"ONNX opset {OPSET} has no operator '{op_type}'", known_names(op_type, names)[:200])
    return onnx.defs.get_schema(op_type, OPSET, "")


def since(op_type: str, opset: int) -> int | None:
    """The opset at which a standard operator became what it is at this one; None where it was not there yet."""
    return int(onnx.defs.get_schema(op_type, opset, "").since_version) if onnx.defs.has(op_type, opset, "") else None


def result_types(schema: onnx.defs.OpSchema, node: ir.Node) -> list[ir.DataType | None]:
    """A result has the type of the inputs that share its type parameter, else the only one its schema allows."""
    given: dict[str, ir.DataType] = {}
    for i, value in enumerate(node.inputs):
        formal = schema.inputs[min(i, len(schema.inputs) - 1)]
        if value is not None and value.dtype is not None:
            given.setdefault(formal.type_str, value.dtype)
    bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    types: list[ir.DataType | None] = []
    for i in range(len(node.outputs)):
        formal = schema.outputs[min(i, len(schema.outputs) - 1)]
        if bodies:  # If: its outputs are the branch's; Loop: after the condition, the body's
            offset = 1 if node.op_type == "Loop" else 0
            types.append(bodies[0].outputs[i + offset].dtype)
        elif "to" in node.attributes:
            types.append(ir.DataType(node.attributes["to"].as_int()))
        elif formal.type_str in given:
            types.append(given[formal.type_str])
        elif "value" in node.attributes:  # ConstantOfShape
            types.append(node.attributes["value"].as_tensor().dtype)
        else:
            types.append(_only_type(schema, formal.type_str))
    return types


def _only_type(schema: onnx.defs.OpSchema, type_str: str) -> ir.DataType | None:
    allowed = next((c.allowed_type_strs for c in schema.type_constraints if c.type_param_str == type_str), [type_str])
    if len(allowed) != 1:
        return None
    name = allowed[0].removeprefix("tensor(").removesuffix(")").upper()
    return ir.DataType[name] if name in ir.DataType.__members__ else None
