"""Which weight lies where: from names, shapes and dtypes alone, so that it is the same every time and everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from porter.checkpoint import write_header
from porter.errors import GraphError, PortError
from porter.weights import Piece, Weight

SHARD_BYTES = 4 * 2**30
DTYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
SAFETENSORS = {
    ir.DataType.FLOAT: "F32",
    ir.DataType.FLOAT16: "F16",
    ir.DataType.BFLOAT16: "BF16",
    ir.DataType.INT8: "I8",
    ir.DataType.UINT8: "U8",
}


@dataclass(frozen=True)
class Place:
    """Where one stored tensor lies: `offset` counts from the start of the file."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class PlannedWeight:
    """A weight and the tensors that it is stored as, one after the other."""

    weight: Weight
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Step:
    """A piece of a weight (its whole table, where that is computed) and the bytes that become of it: for each place of
    the weight the offset and the length.
    """

    weight: Weight
    piece: Piece | None
    spans: tuple[tuple[int, int], ...]
    finishes: PlannedWeight | None  # the weight, where this is its last piece


@dataclass(frozen=True)
class PlannedFile:
    """A weight file: its name, its header, and the weights behind it, in order."""

    name: str
    header: bytes
    weights: tuple[PlannedWeight, ...]

    def size(self) -> int:
        """Bytes on disk."""
        return len(self.header) + sum(place.nbytes for w in self.weights for place in w.places)

    def steps(self) -> Iterator[Step]:
        """The pieces in the order of their bytes; every row of a source becomes as many bytes as any other."""
        for planned in self.weights:
            numbers = math.prod(planned.weight.parameter.shape)
            pieces: Sequence[Piece | None] = planned.weight.pieces or (None,)
            at = [place.offset for place in planned.places]
            for n, piece in enumerate(pieces, 1):
                size = numbers if piece is None else piece.size
                lengths = [place.nbytes * size // numbers if numbers else 0 for place in planned.places]
                yield Step(
                    planned.weight,
                    piece,
                    tuple(zip(at, lengths, strict=True)),
                    planned if n == len(pieces) else None,
                )
                at = [offset + length for offset, length in zip(at, lengths, strict=True)]


def plan_files(
    weights: Sequence[Weight], port_dtype: ir.DataType, shard_size: int = SHARD_BYTES, folder: str = ""
) -> tuple[PlannedFile, ...]:
    """Puts the weights, in their order, into files of at most `shard_size` bytes; a larger one has its own. They lie in
    a `folder` of the port, or directly in it.
    """
    groups: list[list[Weight]] = [[]]
    filled = 0
    for weight in weights:
        size = _nbytes(weight, port_dtype)
        if groups[-1] and filled + size > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(weight)
        filled += size
    return tuple(
        _file(f"{folder}weights-{i:05d}-of-{len(groups):05d}.safetensors", group, port_dtype)
        for i, group in enumerate(groups, 1)
        if group
    )


def parse_size(text: str) -> int:
    """Bytes of a size such as 5GB (10^9) or 4GiB (2^30). Raises PortError for what is none."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) *(?:([KMGT])(i?))?B", text.upper().replace("I", "i"), re.ASCII)
    step = 1024 if found and found[3] else 1000
    nbytes = int(float(found[1]) * step ** " KMGT".index(found[2] or " ")) if found else 0
    if nbytes < 1:
        raise PortError(f"'{text}' is no size", "give a number and a unit, such as 5GB, 500MB or 4GiB")
    return nbytes


def bind_graph(graph: ir.Graph, files: Sequence[PlannedFile], folder: Path) -> None:
    """Points every weight of the graph at its place in the planned files.

    Raises GraphError for a weight that no node reads, which would vanish from the port without a word.
    """
    for file in files:
        for place in (place for weight in file.weights for place in weight.places):
            point(graph, place, Path(file.name).name, folder / Path(file.name).parent)


def point(graph: ir.Graph, place: Place, location: str, folder: Path) -> None:
    """Points one initializer at its bytes. Raises GraphError when no node reads it."""
    if place.name not in graph.initializers or not graph.initializers[place.name].uses():
        raise GraphError(f"weight '{place.name}' is read by no node", "this is a bug in the network that declares it")
    graph.initializers[place.name].const_value = ir.ExternalTensor(
        location, place.offset, place.nbytes, place.dtype,
        shape=ir.Shape(place.shape), name=place.name, base_dir=folder,
    )  # fmt: skip


def _file(name: str, group: Sequence[Weight], port_dtype: ir.DataType) -> PlannedFile:
    stored = [weight.parameter.stored(port_dtype) for weight in group]
    header = write_header([(n, SAFETENSORS[dtype], shape) for tensors in stored for n, dtype, shape in tensors])
    offset, weights = len(header), []
    for weight, tensors in zip(group, stored, strict=True):
        places = []
        for tensor, dtype, shape in tensors:
            nbytes = math.prod(shape) * dtype.numpy().itemsize
            places.append(Place(tensor, dtype, shape, offset, nbytes))
            offset += nbytes
        weights.append(PlannedWeight(weight, tuple(places)))
    return PlannedFile(name, header, tuple(weights))


def _nbytes(weight: Weight, port_dtype: ir.DataType) -> int:
    return sum(math.prod(shape) * dtype.numpy().itemsize for _, dtype, shape in weight.parameter.stored(port_dtype))
