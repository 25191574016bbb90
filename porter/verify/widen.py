"""A port in float16 or bfloat16 as the same graph, node for node, in float32, weights taken from the source."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from porter.graph import all_nodes
from porter.model import Model
from porter.weights import chunks

NARROW = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
Weights = tuple[list[str], list[ort.OrtValue]]  # names and values, as a session takes them


def widen(model: ir.Model) -> None:
    """Turns every narrow type of the graph into float32: values, casts, constants, and the types of weights."""
    graph = model.graph
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        _widen_value(value)
    for node in all_nodes(graph):
        bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        for value in (*node.outputs, *(value for body in bodies for value in body.inputs)):
            _widen_value(value)
        to = node.attributes.get("to")
        if to is not None and ir.DataType(to.as_int()) in NARROW:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
    for value in graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.dtype in NARROW:
            value.const_value = ir.ExternalTensor(
                tensor.location,
                tensor.offset,
                2 * (tensor.length or 0),
                ir.DataType.FLOAT,
                shape=tensor.shape,
                name=tensor.name,
            )
        elif tensor is not None and tensor.dtype in NARROW:
            value.const_value = ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def wide_weights(model: Model, wanted: frozenset[str]) -> Weights:
    """Weights in float32, by the same rules as the port's own; those stored as codes stay the port's."""
    names, values = [], []
    for weight in model.binding.weights:
        if weight.parameter.name not in wanted or weight.parameter.quantization is not None:
            continue
        parts = [c.reshape(-1) for c in chunks(weight, model.source, np.dtype(np.float32))]
        names.append(weight.parameter.name)
        values.append(ort.OrtValue.ortvalue_from_numpy(np.concatenate(parts).reshape(weight.parameter.shape)))
    return names, values


def _widen_value(value: ir.Value) -> None:
    if value.dtype in NARROW:
        value.type = ir.TensorType(ir.DataType.FLOAT)
