"""Writing a port folder: planned first, written beside its final name, renamed once, the manifest last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from porter.checkpoint import write_header
from porter.errors import GraphError, PortError
from porter.weights import Binding, Source, Weight, chunks

MANIFEST = "porter.json"
GRAPH = "model.onnx"
SHARD_BYTES = 4 * 2**30
SPARE_BYTES = 16 * 2**20  # for the graph, the tokenizer and the manifest
SAFETENSORS = {ir.DataType.FLOAT: "F32", ir.DataType.FLOAT16: "F16", ir.DataType.BFLOAT16: "BF16"}

Progress = Callable[[int], None]


@dataclass(frozen=True)
class PlannedFile:
    """A weight file: its name, its header, and the weights behind it, in order."""

    name: str
    header: bytes
    weights: tuple[tuple[Weight, ir.DataType], ...]

    def size(self) -> int:
        """Bytes on disk."""
        return len(self.header) + sum(_nbytes(w, d) for w, d in self.weights)

    def offsets(self) -> Iterator[tuple[Weight, ir.DataType, int, int]]:
        """Each weight with its dtype, offset and length in the file."""
        offset = len(self.header)
        for weight, dtype in self.weights:
            length = _nbytes(weight, dtype)
            yield weight, dtype, offset, length
            offset += length


def plan_files(binding: Binding, port_dtype: ir.DataType) -> tuple[PlannedFile, ...]:
    """Which weight goes where: depends on names, shapes and dtypes only, so it is the same every time."""
    groups: list[list[tuple[Weight, ir.DataType]]] = [[]]
    filled = 0
    for weight in binding.weights:
        dtype = weight.parameter.dtype(port_dtype)
        size = _nbytes(weight, dtype)
        if groups[-1] and filled + size > SHARD_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append((weight, dtype))
        filled += size
    return tuple(
        PlannedFile(f"weights-{i:05d}-of-{len(groups):05d}.safetensors", _header(group), tuple(group))
        for i, group in enumerate(groups, 1)
    )


def bind_graph(graph: ir.Graph, files: Sequence[PlannedFile], folder: Path) -> None:
    """Points every weight of the graph at its place in the planned files.

    Raises GraphError for a weight that no node reads, which would vanish from the port without a word.
    """
    for file in files:
        for weight, dtype, offset, length in file.offsets():
            parameter = weight.parameter
            if parameter.name not in graph.initializers or not graph.initializers[parameter.name].uses():
                raise GraphError(
                    f"weight '{parameter.name}' is read by no node", "this is a bug in the network that declares it"
                )
            tensor = ir.ExternalTensor(
                file.name, offset, length, dtype, shape=ir.Shape(parameter.shape), name=parameter.name, base_dir=folder
            )
            graph.initializers[parameter.name].const_value = tensor


def refuse_output(output: Path, force: bool) -> None:
    """Raises PortError where something stands at `output` that must not be replaced."""
    if not output.exists() and not output.is_symlink():
        return
    if not force:
        raise PortError(f"'{output}' exists", "choose another folder, or --force to replace a port")
    if output.is_symlink() or not (output / MANIFEST).is_file():
        raise PortError(
            f"'{output}' is not a port, so --force does not replace it", "remove it yourself if you mean it"
        )


@contextlib.contextmanager
def new_folder(output: Path, needed: int, force: bool) -> Iterator[Path]:
    """A folder to fill that becomes `output` when the block ends well, and vanishes when it does not.

    Raises PortError when `output` exists (unless `force` and it is a port), cannot be written, or has no room.
    """
    refuse_output(output, force)
    made = _make_parents(output.parent)
    partial = output.parent / f".{output.name}.partial-{os.getpid()}"
    try:
        _check_room(output.parent, needed)
        partial.mkdir()
        yield partial
        _sync(partial)
        refuse_output(output, force)  # another run may have been faster
        _swap(partial, output)
        _sync(output.parent)
    except OSError as error:
        raise PortError(
            f"'{output}' cannot be written: {error.strerror or error}", "make room or choose another folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not output.exists():
            for folder in reversed(made):
                with contextlib.suppress(OSError):
                    folder.rmdir()


def write_weights(folder: Path, file: PlannedFile, source: Source, progress: Progress) -> dict[str, Any]:
    """Streams one weight file; gives its entry in the manifest, digest included."""
    digest = hashlib.sha256(file.header)
    with (folder / file.name).open("xb") as out:
        out.write(file.header)
        for weight, dtype in file.weights:
            written = 0
            for chunk in chunks(weight, source, dtype.numpy()):
                data = chunk.reshape(-1).view(np.uint8).data
                out.write(data)
                digest.update(data)
                written += len(data)
                progress(len(data))
            if written != _nbytes(weight, dtype):
                raise PortError(
                    f"weight '{weight.parameter.name}' came out at {written} bytes",
                    "the checkpoint changed while it was read",
                )
        out.flush()
        os.fsync(out.fileno())
    return {"file": file.name, "bytes": file.size(), "sha256": digest.hexdigest()}


def write_file(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    """Writes a small file; gives its entry in the manifest."""
    with (folder / name).open("xb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def digest_of(path: Path) -> dict[str, Any]:
    """The entry of a file that lies somewhere: its name, size and SHA-256."""
    with path.open("rb") as file:
        return {
            "file": path.name,
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def to_json(document: dict[str, Any]) -> bytes:
    """JSON as it is written: sorted nowhere, indented, the same bytes for the same content."""
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _make_parents(folder: Path) -> list[Path]:
    made = [p for p in (folder, *folder.parents) if not p.exists()][::-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PortError(
            f"'{folder}' cannot be made: {error.strerror}", "choose a folder that you may write to"
        ) from None
    return made


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise PortError(
            f"the port needs {(needed + SPARE_BYTES) / 1e6:.0f} MB, but '{folder}' has {free / 1e6:.0f} MB free",
            "make room or choose another folder",
        )


def _swap(partial: Path, output: Path) -> None:
    """Renames into place; a port that was there goes only once the new one stands."""
    if not output.exists():
        partial.rename(output)
        return
    old = output.parent / f".{output.name}.old-{os.getpid()}"
    output.rename(old)
    try:
        partial.rename(output)
    except OSError:
        old.rename(output)
        raise
    shutil.rmtree(old)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _header(group: Sequence[tuple[Weight, ir.DataType]]) -> bytes:
    return write_header([(w.parameter.name, SAFETENSORS[d], w.parameter.shape) for w, d in group])


def _nbytes(weight: Weight, dtype: ir.DataType) -> int:
    return int(np.prod(weight.parameter.shape, dtype=np.int64)) * dtype.numpy().itemsize
