"""Brings a lowered graph from the opset that porter writes down to that of the front end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from porter.errors import TargetError
from porter.graph import all_nodes, constant_of
from porter.passes import Pass
from porter.schema import OPSET, since_version

NEW = {("ScatterND", "reduction"): b"none", ("ScatterElements", "reduction"): b"none", ("GatherND", "batch_dims"): 0}
NEW_AT = {"ScatterND": 16, "ScatterElements": 16, "GatherND": 12}


class Opset(Pass):
    """Writes each node as its operator was at the front end's opset: axes and sizes that became inputs are attributes
    again. What had no such form is refused.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = self.frontend.opset
        if model.graph.opset_imports.get("") == opset:
            return ir.passes.PassResult(model, modified=False)
        for node in all_nodes(model.graph):
            if not node.domain:
                self._bring_down(node)
                node.version = opset
        for value in [v for v in model.graph.initializers.values() if not v.uses() and not v.is_graph_output()]:
            del model.graph.initializers[str(value.name)]
        model.graph.opset_imports[""] = opset
        return ir.passes.PassResult(model, modified=True)

    def _bring_down(self, node: ir.Node) -> None:
        opset = self.frontend.opset
        version = since_version(node.op_type, opset)
        if version is None:
            raise _refusal(node, opset, "was not there yet")
        if version == since_version(node.op_type, OPSET):
            return
        for (op_type, name), neutral in NEW.items():
            if op_type == node.op_type and name in node.attributes and opset < NEW_AT[op_type]:
                if node.attributes[name].value not in (neutral, _text(neutral)):
                    raise _refusal(node, opset, f"had no {name}")
                del node.attributes[name]
        if opset < 13 and node.op_type in BEFORE_13:
            BEFORE_13[node.op_type](node, opset)


def _axes(node: ir.Node, opset: int) -> None:
    _constant_input_to_attribute(node, opset, "axes")


def _split(node: ir.Node, opset: int) -> None:
    _constant_input_to_attribute(node, opset, "split")


def _last_axis(node: ir.Node, opset: int) -> None:
    """Over the last axis both forms are the same: the old one made a matrix of its input, with rows up to the axis."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    if axis != -1 and (shape is None or axis != len(shape) - 1):
        raise _refusal(node, opset, "went over all axes from the given one on")
    node.attributes["axis"] = ir.AttrInt64("axis", -1)


def _one_scale(node: ir.Node, opset: int) -> None:
    scale = node.inputs[1]
    if scale is None or scale.shape is None or len(scale.shape):
        raise _refusal(node, opset, "had one scale for all")
    node.attributes.pop("axis", None)


BEFORE_13: Mapping[str, Callable[[ir.Node, int], None]] = {
    "Squeeze": _axes,
    "Unsqueeze": _axes,
    "ReduceSum": _axes,
    "Split": _split,
    "Softmax": _last_axis,
    "LogSoftmax": _last_axis,
    "DequantizeLinear": _one_scale,
}


def _constant_input_to_attribute(node: ir.Node, opset: int, name: str) -> None:
    node.attributes.pop("noop_with_empty_axes", None)
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return
    numbers = constant_of(node.inputs[1])
    if numbers is None:
        raise _refusal(node, opset, f"had {name} as an attribute, here they are computed")
    node.attributes[name] = ir.AttrInt64s(name, [int(n) for n in numbers])
    node.replace_input_with(1, None)
    node.resize_inputs(1)


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


def _refusal(node: ir.Node, opset: int, what: str) -> TargetError:
    message = f"{node.name}: {node.op_type} cannot be written at opset {opset}: it {what}"
    return TargetError(message, "another front end may feed the device: see `porter targets`")


PASS = Opset
