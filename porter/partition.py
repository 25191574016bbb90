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
from porter.exchange import Exchange, Kind
from porter.graph import DOMAIN, constant_of, width
from porter.lowering import lower
from porter.order import Rank, Work
from porter.package.plan import bind_graph
from porter.shape import Phase

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


def part(work: Work, output: Path) -> Parted:
    """Builds, cuts and lowers the graph of every rank. Raises TargetError as `lower` does."""
    segments, ranks, exchanges = list[tuple[Phase, ir.Model]](), list[dict[str, Any]](), list[Exchange]()
    report: Counter[str] = Counter()
    for rank in work.ranks:
        graph = rank.model.network.build(work.dtype)
        bind_graph(graph, rank.files, output)
        tables = {p.name for p in rank.model.network.named_parameters() if p.table is not None}
        files = list[str]()
        for number, piece in enumerate(pieces(graph, tables)):
            model, counts = lower(piece.graph, work.target.frontend)
            name, file = f"rank {rank.layout.rank}, segment {number}", f"{rank.folder}segment-{number:03d}.onnx"
            phase = Phase(name, file, work.phases[0].sizes)
            report.update(counts)
            segments.append((phase, model))
            files.append(phase.file)
            if rank.layout.leads:
                exchanges += [_collective(rank, number, node, work) for node in piece.behind]
        if rank.layout.leads and not rank.layout.last:
            exchanges.append(_handed_on(rank, len(files) - 1, work))
        ranks.append(_described(rank, files, work))
    asked = {"tp": work.order.tp, "ep": work.order.ep, "pp": work.order.pp, "cards": len(ranks)}
    told = {"ranks": ranks, "exchanges": [exchange.to_json() for exchange in exchanges]}
    return Parted(tuple(segments), dict(report), asked | told)


def pieces(graph: ir.Graph, tables: set[str]) -> Iterator[Piece]:
    """The segments of a rank's graph, in order; weights called one of `tables` are computed, not read."""
    levels = _levels(graph, tables)
    for level in range(max(n for n in levels.values() if n is not None) + 1):
        here = [n for n in graph if not _is_collective(n) and levels[n.outputs[0]] == level]
        outputs = [v for n in here for v in n.outputs if v.is_graph_output() or _is_read_behind(v, level, levels)]
        read = dict.fromkeys(v for n in here for v in n.inputs if v is not None and _comes_before(v, level, levels))
        for value in (*read, *outputs):
            value.shape = value.shape if value.shape is not None else ir.Shape([TOKENS, _width(value)])
        part = ir.convenience.extract(graph, [*graph.inputs, *read], outputs)
        for value in [v for v in part.inputs if not v.uses()]:
            part.inputs.remove(value)
        yield Piece(part, tuple(n for n in graph if _is_collective(n) and levels[n.outputs[0]] == level + 1))


def _levels(graph: ir.Graph, tables: set[str]) -> Levels:
    """How many collectives stand before a value, by the longest way; None for what is the same anywhere: what follows
    from the tokens, positions and mask without a weight, or from weights alone.
    """
    levels: dict[ir.Value, int | None] = {value: None if value.name in GIVEN else 0 for value in graph.inputs}
    for name, value in graph.initializers.items():
        levels[value] = None if constant_of(value) is not None or name in tables else 0
    fixed = set(graph.initializers.values())
    for node in graph:
        if all(v is None or v in fixed for v in node.inputs):
            fixed.update(node.outputs)
            levels |= dict.fromkeys(node.outputs, None)
            continue
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


def _described(rank: Rank, files: list[str], work: Work) -> dict[str, Any]:
    """What porter.json says of a rank: its place, what it holds, and its segments in the order in which they run."""
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
