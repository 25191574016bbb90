"""Brings a graph down from the opset that porter writes to the one that a front end reads.

What an older opset spells otherwise is a short list: axes and sizes that were attributes before they were inputs. What
it does not have at all was respelled before, or is refused here by name: nothing is left to a reader that guesses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from porter.errors import TargetError
from porter.graph import constant_of
from porter.passes import Pass
from porter.passes.taken import attribute_refusal, schema_refusal

# operator → (the opset at which an attribute became the second input, the attribute)
BECAME_INPUT = {"ReduceSum": (13, "axes"), "Split": (13, "split"), "Squeeze": (13, "axes"), "Unsqueeze": (13, "axes")}
# operator → attributes that came later, each with the opset and the value that says nothing
CAME_LATER: dict[str, dict[str, tuple[int, object]]] = {
    "GatherND": {"batch_dims": (12, 0)},
    "ReduceSum": {"noop_with_empty_axes": (13, 0)},
    "Reshape": {"allowzero": (14, 0)},
    "ScatterND": {"reduction": (16, "none")},
    "ScatterElements": {"reduction": (16, "none")},
    "Shape": {"start": (15, 0)},
}

# below 13 these made a matrix of their input and went over all axes from the given one on: the last one is the same
OVER_ALL_BEHIND = ("Softmax", "LogSoftmax", "Hardmax")


class SetOpset(Pass):
    """The graph, the graphs inside it, and the functions that tell what vendor operators mean."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        before, opset = model.graph.opset_imports[""], self.frontend.opset
        if opset > before:
            raise TargetError(
                f"{self.frontend.name}: porter writes opset {before}, and its 'opset' says {opset}",
                f"set it to {before} or less, which a reader of later opsets takes too",
            )
        if opset == before:
            return ir.passes.PassResult(model, modified=False)
        graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
        for graph in graphs:
            for node in list(_nodes(graph)):
                if not node.domain:
                    _lower(node, opset)
                    self._refuse(node, opset)
            graph.opset_imports[""] = opset
        _drop_unused(model)
        return ir.passes.PassResult(model, modified=True)

    def _refuse(self, node: ir.Node, opset: int) -> None:
        refused = schema_refusal(node, opset) or attribute_refusal(node, opset)
        if refused is None and node.op_type in OVER_ALL_BEHIND and opset < 13 and not _over_last(node):
            refused = f"it goes over all axes from the given one on at opset {opset}"
        if refused is not None:
            raise TargetError(
                f"{node.name or node.op_type}: {node.op_type}: {refused}, which {self.frontend.name} reads",
                "it needs a spelling in porter/passes/spellings, or another front end: see `porter targets`",
            )


def _nodes(graph: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    yield from ir.traversal.RecursiveGraphIterator(graph)


def _lower(node: ir.Node, opset: int) -> None:
    """Writes the node as the older opset does."""
    for name, (since, silent) in CAME_LATER.get(node.op_type, {}).items():
        if opset < since and name in node.attributes and node.attributes[name].value == silent:
            del node.attributes[name]
    if node.op_type in OVER_ALL_BEHIND and opset < 13:
        node.attributes.setdefault("axis", ir.AttrInt64("axis", -1))  # then the default was 1
    since, name = BECAME_INPUT.get(node.op_type, (0, ""))
    if opset >= since or len(node.inputs) < 2:
        return
    stated = _constant(node.inputs[1])
    if stated is None:
        message = f"{node.name}: {node.op_type} takes its {name} from a computed value, which opset {opset} cannot say"
        raise TargetError(message, "a constant can be an attribute: compute it when the graph is built")
    node.attributes[name] = ir.AttrInt64s(name, [int(n) for n in stated])
    node.resize_inputs(1)


def _over_last(node: ir.Node) -> bool:
    shape, axis = node.inputs[0].shape if node.inputs[0] is not None else None, node.attributes["axis"].value
    return axis == -1 or (shape is not None and axis == len(shape) - 1)


def _constant(value: ir.Value | None) -> np.ndarray | None:
    """The content of an initializer, or of a Constant, which is what functions have."""
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "Constant":
        return constant_of(value)
    ((name, attribute),) = producer.attributes.items()
    return attribute.as_tensor().numpy() if name == "value" else np.atleast_1d(attribute.value)


def _drop_unused(model: ir.Model) -> None:
    """Constants that became attributes are read by nobody, and neither are nodes of functions that made them."""
    for name, value in list(model.graph.initializers.items()):
        if name.startswith("const.") and not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]
    for function in model.functions.values():
        _remove(function, (n for n in list(function) if n.op_type == "Constant" and not n.outputs[0].uses()))


def _remove(function: ir.Function, nodes: Iterable[ir.Node]) -> None:
    for node in nodes:
        function.remove(node, safe=True)


PASS = SetOpset
