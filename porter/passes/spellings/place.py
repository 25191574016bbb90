"""What a spelling is, and what it may ask of the node that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from porter.graph import Graph, Operators, element_type

FLOAT, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL
INTEGERS = frozenset({ir.DataType.INT32, INT64})
FLOATS = frozenset({FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

Dimensions = Sequence[int | str | None]
Spelling = Callable[..., Any]  # (place, *inputs) → the results of the operator, or None
SPELLINGS: dict[str, list[Spelling]] = {}


@dataclass(frozen=True)
class Place:
    """The node that is spelled out, and the graph that its spelling goes into."""

    graph: Graph
    node: ir.Node
    shapes: Callable[[ir.Value], Dimensions | None]

    @property
    def op(self) -> Operators:
        return self.graph.op

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attributes[name].value if name in self.node.attributes else default

    def constant(self, value: float | bool, like: ir.Value) -> ir.Value:
        return self.graph.constant(value, element_type(like))

    def axis(self, of: ir.Value, default: int = -1) -> int | None:
        """The node's axis, counted from the front; None where the rank is not known."""
        shape = self.shapes(of)
        return None if shape is None else int(self.attribute("axis", default)) % len(shape)

    def last(self, of: ir.Value) -> int | None:
        """The size of the last axis, where it is a number."""
        shape = self.shapes(of)
        return shape[-1] if shape and isinstance(shape[-1], int) else None


def spelling(op_type: str) -> Callable[[Spelling], Spelling]:
    """Adds a spelling of the operator: those that were added earlier are preferred."""

    def add(build: Spelling) -> Spelling:
        SPELLINGS.setdefault(op_type, []).append(build)
        return build

    return add
