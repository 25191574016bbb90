"""Where a port's graph can be compared inside: at values that have a counterpart among those of the original's modules.

Nodes carry the path of the module that they were built by, and modules are called as in the original. So what leaves
a module's nodes is what the original's module of that name gives, and what enters them what it is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import onnx
import onnx_ir as ir

from porter.dialect import CACHE_UPDATE, CACHE_WRITE
from porter.verify.cut import CACHED, EMBEDDED
from porter.verify.inner import Source
from porter.verify.session import CHOSEN, PAST, PRESENT, WATCHED

Kind = Literal["values", "rotation", "entry", "cache", "mask", "choice"]

LAYER = re.compile(r"((?:.*\.)?layers\.(\d+))(?:\.(.*))?")
UPDATE = re.compile(rf"(.*\.(?:{CACHE_UPDATE.name}|{CACHE_WRITE.name})(?:_\d+)?)\..*")
ROTATION = re.compile(r"(.*)\.(cosines|sines)")
MASK = "mask."  # in front of the names of what is computed once for all layers
OF_NO_MODULE = (MASK, "shapes.", "places.")
RESIDUAL = "residual"  # what no module inside a layer computes: the sums


@dataclass(frozen=True)
class Tap:
    """A value of a port's graph and its counterpart: `source`, or for a cache and what goes into it the number of the
    `entry`; for a choice the layer alone. The block is the module that computes it, by its name within the layer.
    """

    value: str
    kind: Kind
    layer: int | None
    block: str
    source: Source | None = None
    entry: int = 0
    rank: int = 2  # [b * s, width], or 3 [b, s, width], or 4 [b, heads, s, width]
    width: int | None = None  # where it is known
    embedding: bool = False  # which is scaled behind this place


def taps_of(model: ir.Model, modules: Mapping[str, bool]) -> list[Tap]:
    """All of them, in the order in which they are computed. `modules` are the original's, each with whether it has none
    inside.
    """
    graph, shapes = model.graph, _shapes(model)
    found: dict[str, Tap] = {}
    for tap in (*_special(graph, modules), *_between(graph, modules)):
        rank, width = shapes.get(tap.value, (tap.rank, None))
        found.setdefault(tap.value, replace(tap, rank=rank if tap.kind == "values" else tap.rank, width=width))
    order = {str(v.name): n for n, v in enumerate(v for node in graph for v in node.outputs)}
    return sorted(found.values(), key=lambda tap: order[tap.value])


def _special(graph: ir.Graph, modules: Mapping[str, bool]) -> Iterator[Tap]:
    """Cache entries, masks, rotations, and what a router is watched by."""
    entries: dict[int, int] = {}
    for value in graph.outputs:
        if (found := re.fullmatch(CACHED, str(value.name))) and value.producer() is not None:
            layer = int(found[1])
            entry = entries[layer] = entries.get(layer, -1) + 1
            new = list(_entry(graph, str(value.name).replace(PRESENT, PAST), layer, entry, modules))
            block = "cache" if new else _block(str(getattr(value.producer(), "name", "")), modules)
            yield from (*new, Tap(str(value.name), "cache", layer, block or "cache", entry=entry, rank=4))
    for value in _values(graph):
        name = str(value.name)
        if found := ROTATION.fullmatch(name):
            source = Source(found[1], "out", int(found[2] == "sines"))
            if source.module in modules:
                yield Tap(name, "rotation", None, _block(name, modules), source, rank=4)
        elif found := re.fullmatch(CHOSEN, name):
            yield Tap(name, "choice", int(found[1]), _block(name, modules))
        elif re.fullmatch(WATCHED["router_logits"], name):
            source = Source(name.rpartition(".")[0], "out", 0)
            if source.module in modules:
                yield Tap(name, "values", *_place(name, modules), source)
        elif name.startswith(MASK) and value.dtype == ir.DataType.BOOL:
            layers = [found[1] for node in _readers(value) if (found := LAYER.match(str(node.name)))]
            if layers and layers[0] in modules:
                yield Tap(name, "mask", None, MASK.removesuffix("."), Source(layers[0], "mask"), rank=4)


def _entry(graph: ir.Graph, past: str, layer: int, entry: int, modules: Mapping[str, bool]) -> Iterator[Tap]:
    """What new tokens bring into a cache: the one value that the nodes of its update read, but for the past."""
    readers = (str(node.name) for value in graph.inputs if value.name == past for node in _readers(value))
    update = next((found[1] for name in readers if (found := UPDATE.fullmatch(name))), None)
    if update is None:
        return
    nodes = [node for node in graph if str(node.name).startswith(f"{update}.")]
    new = {str(v.name): v for node in nodes for v in node.inputs if v is not None and _enters(v, update)}
    if len(new) == 1:
        ((name, value),) = new.items()
        block = _block(str(getattr(value.producer(), "name", "")), modules)
        yield Tap(name, "entry", layer, block, entry=entry, rank=4)


def _between(graph: ir.Graph, modules: Mapping[str, bool]) -> Iterator[Tap]:
    """What modules give, innermost first; then what those that have none inside are given, outermost first, so that one
    deep inside which reads what is not meant for it does not speak for it.
    """
    nodes: dict[str, list[ir.Node]] = {}
    for node in graph:
        for path in _paths(str(node.name)):
            if path in modules:
                nodes.setdefault(path, []).append(node)
    routers = {name.rpartition(".")[0] for v in _values(graph) if re.fullmatch(CHOSEN, name := str(v.name))}
    inward = sorted(nodes, key=lambda name: -name.count("."))
    for name in inward:
        leaving = [v for node in nodes[name] for v in node.outputs if _leaves(v, name)]
        if len(leaving) == 1:  # a router gives logits, weights and choice
            yield _tap(leaving[0], modules, Source(name, "out", int(name in routers)))
    for name in (name for name in reversed(inward) if modules[name]):
        entering = {str(v.name): v for node in nodes[name] for v in node.inputs if v is not None and _enters(v, name)}
        if len(entering) == 1:
            (value,) = entering.values()
            yield _tap(value, modules, Source(name, "in"))


def _tap(value: ir.Value, modules: Mapping[str, bool], source: Source) -> Tap:
    node = value.producer()
    assert node is not None
    name = str(value.name)
    embedding = re.fullmatch(EMBEDDED, f"{str(node.name).rpartition('.')[0]}.rows") is not None
    rank = 3 if re.fullmatch(EMBEDDED, name) else 2
    return Tap(name, "values", *_place(str(node.name), modules), source, rank=rank, embedding=embedding)


def _leaves(value: ir.Value, module: str) -> bool:
    """Whether a module's value is read by others, or is what a stage gives; numbers only, and no cache."""
    outside = any(not str(node.name).startswith(f"{module}.") for node in _readers(value))
    result = value.is_graph_output() and str(value.name) != "logits"
    return (outside or result) and _counts(value)


def _enters(value: ir.Value, module: str) -> bool:
    node = value.producer()
    return node is not None and not str(node.name).startswith((f"{module}.", *OF_NO_MODULE)) and _counts(value)


def _counts(value: ir.Value) -> bool:
    name = str(value.name)
    special = name.startswith(PRESENT) or re.fullmatch(CHOSEN, name) or re.fullmatch(WATCHED["router_logits"], name)
    return value.dtype == ir.DataType.FLOAT and not special and not ROTATION.fullmatch(name)


def _readers(value: ir.Value) -> list[ir.Node]:
    return [use.node for use in value.uses()]


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [v for node in graph for v in node.outputs if v.name]


def _place(name: str, modules: Mapping[str, bool]) -> tuple[int | None, str]:
    found = LAYER.match(name)
    return int(found[2]) if found else None, _block(name, modules)


def _block(name: str, modules: Mapping[str, bool]) -> str:
    """The module that a node or value is of, by its name within the layer, or by its last name outside of them."""
    path = next((path for path in _paths(name) if path in modules), name)
    found = LAYER.fullmatch(path)
    return (found[3] or RESIDUAL) if found else path.rpartition(".")[2]


def _paths(name: str) -> Iterator[str]:
    """All that stands around a name, innermost first."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _shapes(model: ir.Model) -> dict[str, tuple[int, int | None]]:
    """How many dimensions values have and how large the last is, as far as ONNX can tell."""
    known = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True).graph.value_info
    dimensions = {v.name: v.type.tensor_type.shape.dim for v in known if v.type.tensor_type.HasField("shape")}
    return {name: (len(dims), dims[-1].dim_value or None) for name, dims in dimensions.items() if len(dims)}
