"""What a function of the neutral dialect is: a name, its result types, and one or more bodies in core operators."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from porter.errors import GraphError, known_names
from porter.graph import Graph

Build = Callable[..., Any]


def always(attributes: Mapping[str, Any]) -> bool:
    """For a body that takes every call."""
    return True


@dataclass(frozen=True)
class Body:
    """One way to spell a function in ONNX opset-17 core operators.

    `build(graph, *inputs, **attributes)` emits it; `needs` names the operators beyond the common ones that a front
    end must have for it, and `opset` the one since which they can say what it says. `when` says of a call's attributes
    whether the body is meant for it.
    """

    build: Build
    needs: tuple[str, ...] = ()
    opset: int = 0
    when: Callable[[Mapping[str, Any]], bool] = always


@dataclass
class Function:
    """A composite function in the domain `porter`; calling it emits one node, which `passes.lower` maps or expands.

    Bodies are code, not FunctionProtos: attributes change their structure (groups, scoring), and a front end without
    Loop takes another body than one with it. The first body whose needs are met is taken.
    """

    name: str
    results: tuple[int | ir.DataType, ...]  # an input's index (same type as that input) or a type
    bodies: list[Body] = field(default_factory=list)

    def __call__(self, graph: Graph, *inputs: ir.Value | None, **attributes: Any) -> Any:
        """Emits a call. Raises GraphError for an attribute that is unknown or missing, and a wrong number of inputs."""
        for name in attributes:
            if name not in self.attributes:
                raise GraphError(f"{self.name} has no attribute '{name}'", known_names(name, self.attributes))
        for p in self._signature():
            if p.kind == p.KEYWORD_ONLY and p.default is p.empty and p.name not in attributes:
                raise GraphError(f"{self.name} needs the attribute '{p.name}'", f"it has {', '.join(self.attributes)}")
        optional = sum(p.default is not p.empty for p in self._signature() if p.kind == p.POSITIONAL_OR_KEYWORD)
        if not len(self.inputs) - optional <= len(inputs) <= len(self.inputs):
            expected = ", ".join(self.inputs)
            raise GraphError(f"{self.name} takes {len(self.inputs)} inputs, not {len(inputs)}", f"in order: {expected}")
        return graph.call(self.name, inputs, [self._result_type(r, inputs) for r in self.results], attributes)

    def alternative(
        self, *needs: str, opset: int = 0, when: Callable[[Mapping[str, Any]], bool] = always
    ) -> Callable[[Build], Build]:
        """Adds a body for front ends, or calls, that the earlier ones are not for."""

        def add(build: Build) -> Build:
            self.bodies.append(Body(build, needs, opset, when))
            return build

        return add

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        return tuple(p.name for p in self._signature() if p.kind == p.POSITIONAL_OR_KEYWORD)[1:]

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the attributes."""
        return tuple(p.name for p in self._signature() if p.kind == p.KEYWORD_ONLY)

    @property
    def defaults(self) -> dict[str, Any]:
        """What an attribute is where a call leaves it out."""
        return {p.name: p.default for p in self._signature() if p.kind == p.KEYWORD_ONLY and p.default is not p.empty}

    def _signature(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.bodies[0].build).parameters.values())

    def _result_type(self, result: int | ir.DataType, inputs: tuple[ir.Value | None, ...]) -> ir.DataType | None:
        if isinstance(result, ir.DataType):
            return result
        source = inputs[result]
        return source.dtype if source is not None else None


def function(
    name: str,
    *results: int | ir.DataType,
    needs: tuple[str, ...] = (),
    opset: int = 0,
    when: Callable[[Mapping[str, Any]], bool] = always,
) -> Callable[[Build], Function]:
    """Declares a function of the dialect by its first body: `(graph, *inputs, *, attributes)` → its results."""

    def declare(build: Build) -> Function:
        return Function(name, results or (0,), [Body(build, needs, opset, when)])

    return declare
