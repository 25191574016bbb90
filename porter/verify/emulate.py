"""A port in float16 or bfloat16 run at its dtype on a machine without its kernels: every node in float32, every result
that the graph has at a narrow type rounded to it at once.

That is what an accelerator does that multiplies narrow numbers and adds the products up in float32. What the graph
keeps in float32 (statistics, softmax, routers) stays as it is, and a vendor's fused operator rounds once, at its end.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from porter.graph import all_nodes
from porter.verify.widen import NARROW, Weights, widen


def emulate(model: ir.Model) -> None:
    """Widens the graph, and rounds each result of a node to the type that it had."""
    narrow = {v: v.dtype for node in all_nodes(model.graph) for v in node.outputs if v.dtype in NARROW}
    widen(model)
    for value, dtype in narrow.items():
        _round(value, dtype)


def narrow_weights(model: ir.Model, folder: Path) -> Weights:
    """The weights of a graph that is not widened yet, as they are deployed: narrow numbers from the port's files, exact
    in float32.
    """
    names, values = [], []
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.dtype in NARROW:
            tensor.base_dir = folder
            names.append(str(name))
            values.append(ort.OrtValue.ortvalue_from_numpy(tensor.numpy().astype(np.float32)))
            tensor.release()
    return names, values


def _round(value: ir.Value, dtype: ir.DataType) -> None:
    """Puts a cast to `dtype` and back behind a value; the rounded one takes over its name and its readers."""
    node, name = value.producer(), value.name
    assert node is not None
    assert isinstance(node.graph, ir.Graph)
    narrow = _cast(value, dtype, f"{name}.narrow")
    rounded = _cast(narrow.outputs[0], ir.DataType.FLOAT, f"{name}.rounded")
    result = rounded.outputs[0]
    ir.convenience.replace_all_uses_with(value, result, replace_graph_outputs=True)
    narrow.replace_input_with(0, value)
    node.graph.insert_after(node, [narrow, rounded])
    result.shape, value.name, result.name = value.shape, f"{name}.exact", name


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", dtype)], name=name)
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(dtype)
    return node
