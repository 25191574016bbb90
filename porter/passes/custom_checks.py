"""The rule for a vendor's own operators: a parser that skips what it does not know gives wrong numbers, no error."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from porter.graph import all_nodes
from porter.target import CustomOperator, Frontend

KINDS = {
    ir.AttributeType.INT: "int",
    ir.AttributeType.FLOAT: "float",
    ir.AttributeType.STRING: "string",
    ir.AttributeType.INTS: "ints",
}


def custom_operators(model: ir.Model, frontend: Frontend) -> Iterator[str]:
    """Every vendor operator has as many inputs as its parser takes, and of the attributes those that it reads."""
    for node in all_nodes(model.graph):
        operator = frontend.custom_operators.get(f"{node.domain}::{node.op_type}")
        if operator is not None:
            yield from (f"{node.name}: {operator.identifier} {complaint}" for complaint in _complaints(node, operator))


def _complaints(node: ir.Node, operator: CustomOperator) -> Iterator[str]:
    if len(node.inputs) not in operator.input_counts:
        counts = ", ".join(map(str, operator.input_counts))
        yield f"has {len(node.inputs)} inputs, where its parser takes {counts}"
    if len(node.outputs) > len(operator.outputs):
        yield f"has {len(node.outputs)} outputs of {len(operator.outputs)}"
    for name, attribute in node.attributes.items():
        kind, wanted = KINDS.get(attribute.type, attribute.type.name.lower()), operator.attributes.get(name)
        if wanted is None:
            known = ", ".join(operator.attributes) or "none"
            yield f"writes the attribute '{name}', which its parser does not read: it reads {known}"
        elif kind != wanted:
            yield f"writes the attribute '{name}' as {kind}, where its parser reads {wanted}"
    for name in operator.required:
        if name not in node.attributes:
            yield f"does not write the attribute '{name}', which must be there"
