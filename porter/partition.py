"""A port for several cards: the graph of each is cut where cards exchange something, into segments that any front end
takes.

What one segment leaves for a later one stays on its card; what follows from tokens, positions and mask alone is
computed anew in each that needs it. A card runs its segments in order, and behind some of them stands an exchange.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from porter.blocks.decoder import HIDDEN
from porter.dialect import COLLECTIVES
from porter.errors import GraphError
from porter.exchange import Exchange, Kind
from porter.graph import DOMAIN, constant_of, width
from porter.lowering import lower
from porter.order import Rank, Work
from porter.package.plan import bind_graph
from porter.shape import Phase
from porter.target import Frontend

GIVEN = ("input_ids", "position_ids", "attention_mask")  # to every card
TOKENS = "tokens"  # batch * sequence

Levels = Mapping[ir.Value, int | None]


@dataclass(frozen=True)
class Piece:
    """A segment that is not lowered yet, and the collectives that stand behind it."""

    graph: ir.Graph
    behind: tuple[ir.Node, ...]


@dataclass(frozen=True)
class Parted:
    """The segments of all ranks, what became of their functions, and what porter.json says of ranks and exchanges."""

    segments: tuple[tuple[Phase, ir.Model], ...]
    lowering: dict[str, int]
    split: dict[str, Any]


class _Lowered:
    """Lowers graphs; most segments of a card are those of others, to the byte, and are lowered once."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._known: dict[bytes, tuple[ir.Model, dict[str, int]]] = {}

    def of(self, graph: ir.Graph) -> tuple[ir.Model, dict[str, int]]:
        """As `lower` gives it. Raises TargetError as that does."""
        key = ir.to_proto(graph).SerializeToString(deterministic=True)
        if key not in self._known:
            self._known[key] = lower(graph, self._frontend)
        return self._known[key]


def part(work: Work, output: Path) -> Parted:
    """Builds, cuts and lowers the graph of every rank. Raises TargetError as `lower` does."""
    segments, ranks, report = list[tuple[Phase, ir.Model]](), list[dict[str, Any]](), Counter[str]()
    exchanges: dict[int, list[Exchange]] = {}  # of each stage
    lowered = _Lowered(work.target.frontend)
    for rank in work.ranks:
        files: dict[str, list[str]] = {}
        for whole in work.phases:
            made = files[whole.file] = []
            behind = list[Exchange]()
            for number, piece in enumerate(_cut(rank, whole, work, output)):
                model, counts = lowered.of(piece.graph)
                phase = _phase(rank, whole, number)
                report.update(counts)
                segments.append((phase, model))
                made.append(phase.file)
                behind += [_collective(rank, number, node, work) for node in piece.behind]
            if not rank.layout.last:
                behind.append(_handed_on(rank, len(made) - 1, work))
            if exchanges.setdefault(rank.layout.stage, behind) != behind:
                message = f"{whole.file} of rank {rank.layout.rank} exchanges other values than the stage's first graph"
                raise GraphError(message, "this is a bug in porter: please report it")
        ranks.append(_described(rank, files, work))
    asked = {"tp": work.order.tp, "ep": work.order.ep, "pp": work.order.pp, "cards": len(ranks)}
    told = {"ranks": ranks, "exchanges": [e.to_json() for stage in exchanges.values() for e in stage]}
    return Parted(tuple(segments), dict(report), asked | told)


def _cut(rank: Rank, whole: Phase, work: Work, output: Path) -> Iterator[Piece]:
    graph = rank.model.network.build(work.dtype, whole.sizes)
    bind_graph(graph, rank.files, output)
    tables = {p.name for p in rank.model.network.named_parameters() if p.table is not None}
    return pieces(graph, tables, whole.sizes.tokens or TOKENS)


def _phase(rank: Rank, whole: Phase, number: int) -> Phase:
    """A segment of a graph: that of a growing port has no name of its own."""
    stem = "segment" if whole.sizes.context is None else whole.file.removesuffix(".onnx")
    file = f"{rank.folder}{stem}-{number:03d}.onnx"
    return Phase(f"{whole.name}: rank {rank.layout.rank}, segment {number}", file, whole.sizes)


def pieces(graph: ir.Graph, tables: set[str], tokens: int | str) -> Iterator[Piece]:
    """The segments of a rank's graph, in order; weights called one of `tables` are computed, not read."""
    levels, nodes = _levels(graph, tables), dict[int, list[ir.Node]]()
    for node in graph:
        if (at := levels[node.outputs[0]]) is not None:
            nodes.setdefault(at, []).append(node)
    for level in range(max(nodes) + 1):
        here = [n for n in nodes[level] if not _is_collective(n)]
        outputs = [v for n in here for v in n.outputs if v.is_graph_output() or _is_read_behind(v, level, levels)]
        read = dict.fromkeys(v for n in here for v in n.inputs if v is not None and _comes_before(v, level, levels))
        for value in (*read, *outputs):
            value.shape = value.shape if value.shape is not None else ir.Shape([tokens, _width(value)])
        segment = ir.convenience.extract(graph, [*graph.inputs, *read], outputs)
        for value in [v for v in segment.inputs if not v.uses()]:
            segment.inputs.remove(value)
        found = dict(segment.initializers)
        segment.initializers.clear()  # they come in no order, and the same input gives the same bytes
        for name in (name for name in graph.initializers if name in found):
            segment.register_initializer(found[name])
        yield Piece(segment, tuple(n for n in nodes.get(level + 1, ()) if _is_collective(n)))


def _levels(graph: ir.Graph, tables: set[str]) -> Levels:
    """How many collectives stand before a value, by the longest way; None for what is the same anywhere: what follows
    from the tokens, positions and mask, without a weight.
    """
    levels: dict[ir.Value, int | None] = {value: None if value.name in GIVEN else 0 for value in graph.inputs}
    for name, value in graph.initializers.items():
        levels[value] = None if constant_of(value) is not None or name in tables else 0
    for node in graph:
        known = [level for v in node.inputs if v is not None and (level := levels[v]) is not None]
        level = max(known) + _is_collective(node) if known else None
        levels |= dict.fromkeys(node.outputs, level)
    return levels


def _is_collective(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type in COLLECTIVES


def _is_read_behind(value: ir.Value, level: int, levels: Levels) -> bool:
    """Whether a value of a segment is exchanged behind it, or read by a later one."""
    return any((levels[use.node.outputs[0]] or 0) > level for use in value.uses())


def _comes_before(value: ir.Value, level: int, levels: Levels) -> bool:
    """Whether a value is there before a segment: an earlier one left it, or it was exchanged."""
    node, own = value.producer(), levels[value]
    return node is not None and own is not None and (own < level or _is_collective(node))


def _width(value: ir.Value) -> int:
    """Of what crosses from one segment to another, [tokens, width]."""
    node = value.producer()
    if value.shape is not None or node is None:
        return width(value, -1)
    inputs = [v for v in node.inputs if v is not None]
    match node.op_type:
        case "Gemm":  # its weight lies as [out, in]
            return width(inputs[1], 0)
        case "Reshape":
            shape = constant_of(inputs[1])
            return width(value, -1) if shape is None else int(shape[-1])
        case "QuantizedLinear":
            return node.attributes["outputs"].as_int()
        case "Experts":
            return width(inputs[4], 1)
        case "AllGather":
            return _width(inputs[0]) * node.attributes["size"].as_int()
        case _:  # as wide as what it is made of
            return _width(inputs[0])


def _collective(rank: Rank, number: int, node: ir.Node, work: Work) -> Exchange:
    layout, over, (give,) = rank.layout, node.attributes["group"].as_string(), node.inputs
    assert give is not None
    groups = {peer.group(over): None for peer in layout.ranks() if peer.stage == layout.stage}
    names = str(give.name), str(node.outputs[0].name)
    kind: Kind = "AllReduce" if node.op_type == "AllReduce" else "AllGather"
    return Exchange(kind, over, layout.stage, number, tuple(groups), *names, work.dtype_name, _width(give))


def _handed_on(rank: Rank, number: int, work: Work) -> Exchange:
    """From each card of a stage to the one that stands in its place in the next."""
    layout, network = rank.layout, rank.model.network
    pairs = tuple((r.rank, r.rank + r.tp * r.ep) for r in layout.ranks() if r.stage == layout.stage)
    last = network.model.layers[-1].path
    return Exchange(
        "Send", "pp", layout.stage, number, pairs, f"{last}.output", HIDDEN, work.dtype_name, network.hidden_size
    )


def _described(rank: Rank, files: dict[str, list[str]], work: Work) -> dict[str, Any]:
    """What porter.json says of a rank: its place, what it holds, and for each graph its segments in their order."""
    layout, network = rank.layout, rank.model.network
    numbers = sum(entry.heads * entry.width for entries in network.cache() for entry in entries)
    return {
        "rank": layout.rank,
        "stage": layout.stage,
        "ep": layout.rank // layout.tp % layout.ep,
        "tp": layout.rank % layout.tp,
        "layers": [network.start, network.start + len(network.cache())],
        "weight_bytes": sum(place.nbytes for file in rank.files for w in file.weights for place in w.places),
        "cache_bytes_per_token": numbers * work.dtype.numpy().itemsize,
        "segments": files,
    }
