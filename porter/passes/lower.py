"""Lowering: every function of the neutral dialect is mapped, or expanded into its body, until only operators are left
that the front end takes; one that is left over and not taken is an error that names it. Keep, map, expand, refuse.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx
import onnx.parser
import onnx_ir as ir

from porter.dialect import FUNCTIONS, Body, Function
from porter.errors import TargetError
from porter.graph import DOMAIN, Graph, all_nodes
from porter.passes import Pass
from porter.schema import OPSET
from porter.target import CustomOperator, OperatorMapping


class Lower(Pass):
    """Leaves no node of the neutral dialect; `report` counts what became of the graph.

    1. A function that a mapping of the front end covers, under the mapping's conditions, becomes the vendor's
       operator; its documented meaning travels along as an ONNX function, so that the port runs anywhere.
    2. Any other is replaced by the first of its bodies whose operators the front end has.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.mapped: Counter[str] = Counter()
        self.expanded: Counter[str] = Counter()
        graph = Graph(model.graph)
        while calls := [n for n in all_nodes(model.graph) if n.domain == DOMAIN]:
            for node in calls:
                if (mapping := self._mapping(node)) is not None:
                    self._map(model, node, mapping)
                else:
                    self._expand(graph, node)
        model.graph.opset_imports.pop(DOMAIN, None)
        return ir.passes.PassResult(model, modified=bool(self.mapped or self.expanded))

    def report(self, model: ir.Model) -> dict[str, int]:
        """How many standard nodes the lowered graph keeps, how many functions were mapped, how many expanded."""
        kept = sum(1 for node in all_nodes(model.graph) if node.domain == "")
        return {"kept": kept, "mapped": self.mapped.total(), "expanded": self.expanded.total()}

    def _mapping(self, node: ir.Node) -> OperatorMapping | None:
        values = {name: attribute.value for name, attribute in node.attributes.items()}
        for mapping in self.frontend.mappings:
            if mapping.function == node.op_type and mapping.applies(values):
                return mapping
        return None

    def _map(self, model: ir.Model, node: ir.Node, mapping: OperatorMapping) -> None:
        operator = self.frontend.custom_operators[mapping.operator]
        names = FUNCTIONS[node.op_type].inputs
        inputs = [node.inputs[names.index(name)] for name in mapping.inputs]
        new = ir.Node(
            operator.domain, operator.name, inputs, ir.convenience.convert_attributes(dict(operator.attributes)),
            num_outputs=len(operator.outputs), name=node.name,
        )  # fmt: skip
        for value, name in zip(new.outputs, operator.outputs, strict=True):
            value.name = f"{node.name}.{name}"  # every output has a name: parsers connect empty ones
        assert isinstance(node.graph, ir.Graph)
        node.graph.insert_before(node, new)
        _replace(node, list(new.outputs)[: len(node.outputs)])
        _define(model, operator)
        self.mapped[operator.identifier] += 1

    def _expand(self, graph: Graph, node: ir.Node) -> None:
        function = FUNCTIONS.get(node.op_type)
        if function is None:
            raise TargetError(
                f"{node.name}: the dialect has no function '{node.op_type}'", "write the graph through porter.dialect"
            )
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        body = self._body(function, node, attributes)
        inputs = [*node.inputs, *[None] * (len(function.inputs) - len(node.inputs))]
        with graph.before(node):
            results = body.build(graph, *inputs, **attributes)
        _replace(node, list(results) if isinstance(results, tuple) else [results])
        self.expanded[node.op_type] += 1

    def _body(self, function: Function, node: ir.Node, attributes: dict[str, Any]) -> Body:
        lacking = []
        for body in (body for body in function.bodies if body.when(attributes)):
            missing = [
                op for op in body.needs if not self.frontend.has(op, onnx.defs.get_schema(op, OPSET).since_version)
            ]
            if not missing:
                return body
            lacking += missing
        needed = ", ".join(sorted(set(lacking)))
        raise TargetError(
            f"{node.name}: {self.frontend.name} takes no body of {function.name}: it lacks {needed}",
            "another front end of the device may take it: see `porter targets`",
        )


def _replace(node: ir.Node, results: list[ir.Value]) -> None:
    """Puts the results in the node's place; they take over its values' names, so that what is watched stays named."""
    for old, new in zip(node.outputs, results, strict=True):
        if old.shape is not None:
            new.shape = old.shape
        if old.type is not None:
            new.type = old.type
        name, old.name = old.name, None
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name = name
    assert isinstance(node.graph, ir.Graph)
    node.graph.remove(node, safe=True)


def _define(model: ir.Model, operator: CustomOperator) -> None:
    if operator.meaning is None:
        raise TargetError(f"{operator.identifier} has no meaning", "write what it computes into the front end's TOML")
    meaning = ir.serde.deserialize_function(onnx.parser.parse_function(operator.meaning))
    model.functions.setdefault(meaning.identifier(), meaning)
    model.graph.opset_imports[operator.domain] = operator.version


PASS = Lower
