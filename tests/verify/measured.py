"""`porter verify` at the levels that measure a port at its dtype, and ports to be measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tiny
import torch
from command import run
from onnx import GraphProto, NodeProto, TensorProto
from surgery import graph_of, header, weight_of

from porter.port import convert

TARGET = {"float16": "onnxruntime-cpu", "bfloat16": "ascend-910b", "float32": "onnxruntime-cpu"}


def report(port: Path, checkpoint: Path, level: str) -> dict[str, Any]:
    """What `--json` says, with the exit code that belongs to it."""
    found = run("verify", port, "--against", checkpoint, "--level", level, "--json")
    document = found.json()
    assert found.code == {"pass": 0, "fail": 1, "inconclusive": 3}[document["status"]]
    assert [lv["name"] for lv in document["levels"]] == [level]
    return document


def checks(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every check of a report by its name."""
    return {check["name"]: check for level in document["levels"] for check in level["checks"]}


def write(folder: Path, family: str, dtype: str, **overrides: Any) -> tuple[Path, Path]:
    """A checkpoint of a family in bfloat16, and a port of it at `dtype`."""
    checkpoint = tiny.write_checkpoint(folder / "checkpoint", tiny.sample(family, **overrides), dtype=torch.bfloat16)
    convert(checkpoint, TARGET[dtype], folder / "port", dtype=dtype)
    return checkpoint, folder / "port"


def round_floats(port: Path, pattern: str, kind: int) -> None:
    """Rounds to another type whatever the port computes in float32 under names of this pattern."""
    with graph_of(port) as graph:
        types = {value.name: value for value in graph.value_info}
        found = [n for n in graph.node if re.search(pattern, n.output[0]) and _is_float32(types.get(n.output[0]))]
        assert found, f"nothing in float32 is called {pattern}"
        nodes = list(graph.node)
        for node in found:
            place = nodes.index(node) + 1
            nodes[place:place] = _rounding(graph, node, types[node.output[0]], kind)
        del graph.node[:]
        graph.node.extend(nodes)


def _is_float32(value: onnx.ValueInfoProto | None) -> bool:
    return value is not None and value.type.tensor_type.elem_type == TensorProto.FLOAT


def _rounding(graph: GraphProto, node: NodeProto, value: onnx.ValueInfoProto, kind: int) -> list[NodeProto]:
    """Casts there and back, which take over the result's name."""
    name = node.output[0]
    node.output[0] = f"{name}.wide"
    casts = []
    for way, source, result, to in (
        ("there", f"{name}.wide", f"{name}.narrow", kind),
        ("back", f"{name}.narrow", name, TensorProto.FLOAT),
    ):
        cast = NodeProto(op_type="Cast", name=f"{name}.{way}", input=[source], output=[result])
        cast.attribute.add(name="to", type=onnx.AttributeProto.INT, i=to)
        casts.append(cast)
    for made, its in ((f"{name}.wide", TensorProto.FLOAT), (f"{name}.narrow", kind)):
        copy = graph.value_info.add()
        copy.CopyFrom(value)
        copy.name, copy.type.tensor_type.elem_type = made, its
    return casts


def disturb_weights(port: Path, share: float) -> None:
    """Adds noise to every matrix: this much of each number's own size."""
    generator = np.random.default_rng(11)
    for name, entry in header(port).items():
        if name.endswith("weight") and len(entry["shape"]) == 2 and "norm" not in name:
            with weight_of(port, name) as weight:
                exact = _numbers(weight, entry["dtype"])
                _put(weight, entry["dtype"], exact * (1 + share * generator.standard_normal(exact.shape)))


def _numbers(stored: np.ndarray, kind: str) -> np.ndarray:
    return (stored.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else stored.astype(np.float32)


def _put(stored: np.ndarray, kind: str, values: np.ndarray) -> None:
    if kind == "BF16":
        stored[:] = torch.from_numpy(values.astype(np.float32)).bfloat16().view(torch.uint16).numpy()
    else:
        stored[:] = values
