"""Spells comparisons that a front end lacks by others that it has."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from porter.graph import all_nodes
from porter.passes import Pass
from porter.schema import since_version

MIRRORED = {"LessOrEqual": "GreaterOrEqual", "GreaterOrEqual": "LessOrEqual"}  # a <= b is b >= a
STRICT = {
    "LessOrEqual": "Less",
    "GreaterOrEqual": "Greater",
}  # of whole numbers a <= b is a < b + 1, a >= b is a + 1 > b
RAISED = {"LessOrEqual": 1, "GreaterOrEqual": 0}  # the operand that one is added to
WHOLE = (ir.DataType.INT64, ir.DataType.INT32)


class Respell(Pass):
    """Changes only what the front end would refuse, and nothing that it has no other spelling for: that is refused
    later, by its own name.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        lacking = [node for node in self._lacking(model)]
        changed = [self._respell(node) for node in lacking]
        return ir.passes.PassResult(model, modified=any(changed))

    def _lacking(self, model: ir.Model) -> Iterator[ir.Node]:
        for node in all_nodes(model.graph):
            if not node.domain and node.op_type in MIRRORED and not self._has(node.op_type):
                yield node

    def _has(self, op_type: str) -> bool:
        version = since_version(op_type, self.frontend.opset)
        return version is not None and self.frontend.has(op_type, version)

    def _respell(self, node: ir.Node) -> bool:
        mirrored, strict = MIRRORED[node.op_type], STRICT[node.op_type]
        left, right = node.inputs
        assert left is not None
        if self._has(mirrored):
            node.op_type = mirrored
            node.replace_input_with(0, right)
            node.replace_input_with(1, left)
        elif left.dtype in WHOLE and self._has(strict) and self._has("Add"):
            self._raise(node, RAISED[node.op_type])
            node.op_type = strict
        else:
            return False
        return True

    def _raise(self, node: ir.Node, place: int) -> None:
        """Adds one to the operand at this place."""
        operand, graph = node.inputs[place], node.graph
        assert operand is not None
        assert isinstance(graph, ir.Graph)
        assert operand.dtype is not None
        one = ir.Value(name=f"{node.name}.one", const_value=ir.tensor(np.array(1, operand.dtype.numpy())))
        graph.register_initializer(one)
        above = ir.Node("", "Add", [operand, one], num_outputs=1, name=f"{node.name}.next", version=node.version)
        above.outputs[0].name = f"{node.name}.next"
        above.outputs[0].dtype, above.outputs[0].shape = operand.dtype, operand.shape
        graph.insert_before(node, above)
        node.replace_input_with(place, above.outputs[0])


PASS = Respell
