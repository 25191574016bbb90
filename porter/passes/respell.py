"""Respelling: a standard operator that the front end does not take is written in others that it does take.

Not taken is what is unknown, or not known at the opset that the front end reads, or not for the types at hand. What
has no spelling that the front end takes is left, for the check to refuse by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porter.graph import Graph, all_nodes, inferred, replace
from porter.passes import Pass
from porter.passes.spellings import SPELLINGS, Dimensions, Place, Spelling
from porter.passes.taken import refusal

Above = frozenset[str]  # the operators that a node is part of a spelling of: no spelling goes in circles


class Respell(Pass):
    """Replaces each operator that is not taken by the first of its spellings that is, be it spelled in its turn."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, above, modified = Graph(model.graph), dict[str, Above](), False
        while True:
            shapes, again = Shapes(model), False
            for node in [n for n in all_nodes(model.graph) if self._refused(n)]:
                chosen = self._spelling(node, above.get(str(node.name), frozenset()), shapes)
                if chosen is not None:
                    with graph.before(node) as emitted:
                        results = chosen(Place(graph, node, shapes.of), *node.inputs)
                    known = above.get(str(node.name), frozenset()) | {node.op_type}
                    above |= {str(new.name): known for new in emitted}
                    replace(node, results if isinstance(results, tuple) else [results])
                    again = modified = True
            if not again:
                return ir.passes.PassResult(model, modified=modified)

    def _refused(self, node: ir.Node) -> bool:
        return node.op_type in SPELLINGS and not node.domain and self._refusal(node) is not None

    def _refusal(self, node: ir.Node) -> str | None:
        return refusal(node, self.frontend, self.frontend.opset)

    def _spelling(self, node: ir.Node, above: Above, shapes: Shapes) -> Spelling | None:
        """The first spelling of which every node is taken, else the first of which every other has a spelling."""
        above, tried = above | {node.op_type}, []
        for spelling in SPELLINGS.get(node.op_type, ()):
            emitted = _tried(spelling, node, shapes)
            if emitted is None:
                continue
            refused = [new for new in emitted if self._refusal(new) is not None]
            if not refused:
                return spelling
            tried.append((spelling, refused))
        for spelling, refused in tried:
            if all(new.op_type not in above and self._spelling(new, above, shapes) for new in refused):
                return spelling
        return None


class Shapes:
    """The shapes of a model's values by name, inferred when the first is asked for."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._known: dict[str, Dimensions | None] | None = None

    def of(self, value: ir.Value) -> Dimensions | None:
        if self._known is None:
            self._known = _shapes(inferred(self._model))
        return self._known.get(str(value.name))


def _shapes(model: ir.Model) -> dict[str, Dimensions | None]:
    values: list[ir.Value] = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in all_nodes(model.graph):
        values += node.outputs
    return {str(value.name): _dimensions(value.shape) for value in values}


def _dimensions(shape: ir.Shape | None) -> Dimensions | None:
    if shape is None:
        return None
    return [size if isinstance(size, int) else size.value for size in shape]


def _tried(spelling: Spelling, node: ir.Node, shapes: Shapes) -> Sequence[ir.Node] | None:
    """The nodes that a spelling would give, on a sheet of paper: the graph itself stays as it is."""
    paper = Graph(ir.Graph([], [], nodes=[], name="trial"))
    inputs = [None if value is None else _copy(value) for value in node.inputs]
    with paper.scope(f"{node.name}.trial"):  # a name that no value has: nothing is known of its shape
        results = spelling(Place(paper, node, shapes.of), *inputs)
    return None if results is None else list(paper.root)


def _copy(value: ir.Value) -> ir.Value:
    return ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=value.const_value)


PASS = Respell
