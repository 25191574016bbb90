"""Cuts out of a port's graph what a stage has: from the output of the layer before it to its own last layer's."""

from __future__ import annotations

import re

import onnx_ir as ir

from porter.verify.stages import Stage

EMBEDDED = r"(?:.*\.)?embed_tokens\.rows"
CACHED = r"(?:present|past_key_values)\.(\d+)\..*"


def cut(model: ir.Model, stage: Stage) -> str | None:
    """Leaves the nodes, weights, inputs and outputs that the stage has; gives the name of the input which the stage
    before computes, where it has no embedding of its own.
    """
    graph = model.graph
    outputs = [value for value in graph.outputs if _cached_in(value, stage)]
    if stage.head:
        outputs.append(next(value for value in graph.outputs if value.name == "logits"))
    else:
        outputs.append(boundary(graph, stage.layers.stop))
    before = [] if stage.embedding else [boundary(graph, stage.layers.start)]
    part = ir.convenience.extract(graph, [*graph.inputs, *before], outputs)
    for value in [v for v in part.inputs if not v.uses()]:
        part.inputs.remove(value)
    model.graph = part
    return str(before[0].name) if before else None


def boundary(graph: ir.Graph, layer: int) -> ir.Value:
    """What flows into a layer: what the one before it computed [T, D], or the embedding's rows [B, S, D]."""
    pattern = re.compile(rf"(?:.*\.)?layers\.{layer - 1}\.output" if layer else EMBEDDED)
    return next(v for node in graph for v in node.outputs if v.name and pattern.fullmatch(v.name))


def _cached_in(value: ir.Value, stage: Stage) -> bool:
    found = re.fullmatch(CACHED, str(value.name))
    return found is not None and int(found[1]) in stage.layers
