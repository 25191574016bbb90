"""What cards of one group make of what each of them has. `size` says how many they are: alone, a card has it all.

AllReduce(x) {group, size}: the sum of all cards' x, on each of them.
AllGather(x) {group, size}: all cards' x behind one another along the last axis, on each of them.

No front end that is known has operators for them, so a graph for one of several cards is cut in two where they stand
(`porter.partition`), and what runs it moves the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from porter.dialect.function import function
from porter.graph import Graph


def _alone(attributes: Mapping[str, Any]) -> bool:
    return attributes["size"] == 1


@function("AllReduce", when=_alone)
def ALL_REDUCE(graph: Graph, x: ir.Value, *, group: str, size: int) -> ir.Value:
    """A sum of one."""
    return graph.op.Identity(x)


@function("AllGather", when=_alone)
def ALL_GATHER(graph: Graph, x: ir.Value, *, group: str, size: int) -> ir.Value:
    """All that there is."""
    return graph.op.Identity(x)


COLLECTIVES = (ALL_REDUCE.name, ALL_GATHER.name)
