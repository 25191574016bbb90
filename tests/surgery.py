"""Changes to a port that is there already: one number of its graph, one weight, one bit; signed again or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

WEIGHTS = "weights-00001-of-00001.safetensors"
KINDS = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I8": np.int8, "U8": np.uint8}


@contextmanager
def graph_of(port: Path, file: str = "model.onnx") -> Iterator[onnx.GraphProto]:
    """A graph of a port, to be changed: it is written back, and signed."""
    model = onnx.load(port / file, load_external_data=False)
    yield model.graph
    (port / file).write_bytes(model.SerializeToString(deterministic=True))
    sign(port)


@contextmanager
def weight_of(port: Path, name: str, folder: str = "") -> Iterator[np.memmap[Any, Any]]:
    """A weight as it lies in the port's file, or in that of a rank's folder, to be changed in place; the file is signed
    again.
    """
    path = port / folder / WEIGHTS
    entry, start = header(path.parent)[name], int.from_bytes(path.read_bytes()[:8], "little") + 8
    kind, offset = KINDS[entry["dtype"]], start + entry["data_offsets"][0]
    array = np.memmap(path, dtype=kind, mode="r+", offset=offset, shape=tuple(entry["shape"]))
    yield array
    array.flush()
    sign(port)


def header(port: Path) -> dict[str, Any]:
    """The header of the port's weights."""
    data = (port / WEIGHTS).read_bytes()
    found = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert isinstance(found, dict)
    return found


def sign(port: Path) -> None:
    """Puts into the manifest what the files are, so that only a comparison with the checkpoint finds a change."""
    manifest = json.loads((port / "porter.json").read_text())
    for entry in [e for part in ("graphs", "weights", "files") for e in manifest[part]]:
        data = (port / entry["file"]).read_bytes()
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (port / "porter.json").write_text(json.dumps(manifest))


def digests_hold(port: Path) -> None:
    """Every file is what the manifest says."""
    manifest = json.loads((port / "porter.json").read_text())
    for entry in [e for part in ("graphs", "weights", "files") for e in manifest[part]]:
        data = (port / entry["file"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest()), entry["file"]


def flip(path: Path, byte: int, bit: int = 0) -> None:
    """Flips one bit of a file; nobody signs for it."""
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def constants(graph: onnx.GraphProto, prefix: str) -> list[onnx.TensorProto]:
    """The small constants whose names begin so."""
    found = [tensor for tensor in graph.initializer if tensor.name.startswith(prefix)]
    assert found, f"no constant is called {prefix}"
    return found


def value_of(tensor: onnx.TensorProto) -> np.ndarray:
    """The content of a small constant."""
    return np.array(ir.from_proto(tensor).numpy())


def set_value(tensor: onnx.TensorProto, value: np.ndarray) -> None:
    """Another content for a constant, under the same name."""
    tensor.CopyFrom(ir.to_proto(ir.tensor(value.astype(value_of(tensor).dtype), name=tensor.name)))


def rewire(graph: onnx.GraphProto, reader: str, old: str, new: str) -> int:
    """Lets nodes whose result ends in `reader` read a value ending in `new` where they read one ending in `old`.

    Gives how many inputs were changed. The values are those of one scope: what stands before the ending is the same.
    """
    count = 0
    for node in graph.node:
        for result in [name for name in node.output if name.endswith(reader)]:
            scope = result.removesuffix(reader)
            for n, name in enumerate(node.input):
                if name == scope + old:
                    node.input[n] = scope + new
                    count += 1
    assert count, f"nothing ending in {reader} reads {old}"
    return count
