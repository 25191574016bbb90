"""Lowering: every function of the neutral dialect is mapped, or expanded into its body, until only operators are left
that the front end takes; one that is left over and not taken is an error that names it. Keep, map, expand, refuse.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx_ir as ir

from porter.dialect import FUNCTIONS, Body, Function
from porter.errors import TargetError
from porter.graph import DOMAIN, Graph, all_nodes, replace
from porter.passes import Pass
from porter.passes.inline import define, emit_body
from porter.passes.taken import dtype_name, has
from porter.target import OperatorMapping

Values = dict[str, Any]  # the attributes of a call


class Lower(Pass):
    """Leaves no node of the neutral dialect; `report` counts what became of the graph.

    1. A function that a mapping of the front end covers, under the mapping's conditions, becomes the mapping's body;
       what the vendor documents of its operators travels along as ONNX functions, so that the port runs anywhere.
    2. Any other is replaced by the first of its bodies whose operators the front end has.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.mapped: Counter[str] = Counter()
        self.expanded: Counter[str] = Counter()
        graph = Graph(model.graph)
        while calls := [n for n in all_nodes(model.graph) if n.domain == DOMAIN]:
            for node in calls:
                function = _function(node)
                attributes = {**function.defaults, **{name: a.value for name, a in node.attributes.items()}}
                if (mapping := self._mapping(function, node, attributes)) is not None:
                    self._map(model, graph, node, mapping, attributes)
                else:
                    self._expand(graph, node, function, attributes)
        model.graph.opset_imports.pop(DOMAIN, None)
        return ir.passes.PassResult(model, modified=bool(self.mapped or self.expanded))

    def report(self, model: ir.Model) -> dict[str, int]:
        """How many standard nodes the lowered graph keeps, how many functions were mapped, how many expanded."""
        kept = sum(1 for node in all_nodes(model.graph) if node.domain == "")
        return {"kept": kept, "mapped": self.mapped.total(), "expanded": self.expanded.total()}

    def _mapping(self, function: Function, node: ir.Node, attributes: Values) -> OperatorMapping | None:
        given = zip(function.inputs, node.inputs, strict=False)
        dtypes = {name: dtype_name(value.dtype) for name, value in given if value is not None}
        for mapping in self.frontend.mappings:
            if mapping.function == function.name and mapping.applies(attributes, dtypes):
                return mapping
        return None

    def _map(self, model: ir.Model, graph: Graph, node: ir.Node, mapping: OperatorMapping, attributes: Values) -> None:
        names = FUNCTIONS[node.op_type].inputs
        inputs = [node.inputs[names.index(name)] for name in mapping.inputs]
        with graph.before(node):
            results = emit_body(graph, self.frontend, mapping, attributes, [v for v in inputs if v is not None])
        replace(node, results)
        for identifier in mapping.operators:
            define(model, self.frontend.custom_operators[identifier])
        self.mapped[", ".join(mapping.operators)] += 1

    def _expand(self, graph: Graph, node: ir.Node, function: Function, attributes: Values) -> None:
        inputs = [*node.inputs, *[None] * (len(function.inputs) - len(node.inputs))]
        with graph.before(node):
            results = self._body(function, node, attributes).build(graph, *inputs, **attributes)
        replace(node, list(results) if isinstance(results, tuple) else [results])
        self.expanded[node.op_type] += 1

    def _body(self, function: Function, node: ir.Node, attributes: Values) -> Body:
        lacking = []
        for body in (body for body in function.bodies if body.when(attributes)):
            missing = [op for op in body.needs if not has(self.frontend, op)]
            if not missing and self.frontend.opset >= body.opset:
                return body
            lacking += missing or [f"opset {body.opset}"]
        needed = ", ".join(sorted(set(lacking)))
        raise TargetError(
            f"{node.name}: {self.frontend.name} takes no body of {function.name}: it lacks {needed}",
            "another front end of the device may take it: see `porter targets`",
        )


def _function(node: ir.Node) -> Function:
    if node.op_type not in FUNCTIONS:
        raise TargetError(
            f"{node.name}: the dialect has no function '{node.op_type}'", "write the graph through porter.dialect"
        )
    return FUNCTIONS[node.op_type]


PASS = Lower
