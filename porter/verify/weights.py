"""Level one: every byte of every weight against the checkpoint it came from. No model is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from porter.checkpoint import TensorInfo, parse_header
from porter.errors import CheckpointError
from porter.manifest import DTYPES, PARTS, Port
from porter.model import Model
from porter.package import SAFETENSORS, digest_of
from porter.verify.report import Check, Level
from porter.weights import Weight, chunks


def check_weights(port: Port, model: Model) -> Level:
    """Digests against the manifest, pointers against the parsed headers, bytes against the re-run rules."""
    tensors, broken = _headers(port)
    graph, unread = _graph(port)
    checks = [
        _named("files changed", _changed_files(port) + broken + unread),
        _named("pointers astray", _wrong_pointers(port, graph, tensors)),
        _named("weights missing or extra", _unaccounted(graph, model)),
        _named("weights unlike their source", _different(port, model, tensors)),
    ]
    return Level("weights", tuple(checks))


def damage(port: Port) -> list[str]:
    """Why a port must not be run: a graph that was changed or cannot be read, or that does not point at its weights."""
    entry = port.manifest["graphs"][0]
    changed = [f"{entry['file']} was changed"] if digest_of(port.graph)["sha256"] != entry["sha256"] else []
    tensors, broken = _headers(port)
    graph, unread = _graph(port)
    return changed + broken + unread + [f"pointer of {name}" for name in _wrong_pointers(port, graph, tensors)]


def _named(name: str, wrong: list[str]) -> Check:
    shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    return Check.at_most(name, len(wrong), 0, shown)


def _headers(port: Port) -> tuple[dict[str, TensorInfo], list[str]]:
    tensors: dict[str, TensorInfo] = {}
    broken = []
    for entry in port.manifest["weights"]:
        try:
            tensors |= {t.name: t for t in parse_header(port.folder / entry["file"])}
        except CheckpointError as error:
            broken.append(error.message)
    return tensors, broken


def _graph(port: Port) -> tuple[onnx.GraphProto, list[str]]:
    """The graph without its weights; an empty one, and why, where the file holds none."""
    try:
        return onnx.load(port.graph, load_external_data=False).graph, []
    except DecodeError:
        return onnx.GraphProto(), [f"{port.graph.name} cannot be read"]


def _changed_files(port: Port) -> list[str]:
    entries = [e for part in PARTS for e in port.manifest[part]]
    return [e["file"] for e in entries if digest_of(port.folder / e["file"])["sha256"] != e["sha256"]]


def _wrong_pointers(port: Port, graph: onnx.GraphProto, tensors: Mapping[str, TensorInfo]) -> list[str]:
    """The checker of ONNX does not look at offsets: one past the end, or into the header, would be read as weights."""
    wrong = []
    for initializer in graph.initializer:
        if initializer.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = {e.key: e.value for e in initializer.external_data}
        info = tensors.get(str(initializer.name))
        expected = info and (info.file.name, str(info.offset), str(info.nbytes), info.shape, info.dtype)
        dtype = next((name for known, name in SAFETENSORS.items() if known == initializer.data_type), None)
        found = (place.get("location"), place.get("offset"), place.get("length"), tuple(initializer.dims), dtype)
        if found != expected:
            wrong.append(str(initializer.name))
    return wrong


def _unaccounted(graph: onnx.GraphProto, model: Model) -> list[str]:
    found = [str(i.name) for i in graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL]
    wanted = {w.parameter.name for w in model.binding.weights}
    return sorted(wanted.symmetric_difference(found)) + sorted({n for n in found if found.count(n) > 1})


def _different(port: Port, model: Model, tensors: Mapping[str, TensorInfo]) -> list[str]:
    dtype = DTYPES[port.dtype]
    return [
        w.parameter.name
        for w in model.binding.weights
        if w.parameter.name not in tensors
        or not _same(tensors[w.parameter.name], w, model, w.parameter.dtype(dtype).numpy())
    ]


def _same(info: TensorInfo, weight: Weight, model: Model, dtype: np.dtype) -> bool:
    """Compares piece by piece with what the rule makes of the source once more."""
    if info.shape != weight.parameter.shape or info.nbytes != int(np.prod(info.shape)) * dtype.itemsize:
        return False
    stored = np.memmap(Path(info.file), dtype=np.uint8, mode="r", offset=info.offset, shape=(info.nbytes,))
    at = 0
    for chunk in chunks(weight, model.source, dtype):
        data = chunk.reshape(-1).view(np.uint8)
        if not np.array_equal(stored[at : at + data.size], data):
            return False
        at += data.size
    return at == info.nbytes
