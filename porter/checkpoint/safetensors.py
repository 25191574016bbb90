"""The header of a safetensors file: read with every check that the format asks for, and written.

The format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from porter.checkpoint.files import DAMAGED, parse_object, reading, shown
from porter.errors import CheckpointError, known_names

TO_SAFETENSORS = (
    "where you trust its maker, load it with transformers and save it with save_pretrained, which writes safetensors"
)
# The dtypes that fill whole bytes; F4 and F6 pack several numbers into one and have no numpy twin.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
}
_MAX_HEADER = 16 << 20
_MAX_TENSORS = 200_000
_MAX_RANK = 32  # what every supported numpy takes
_ALIGNMENT = 64
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PICKLE = tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies; `offset` counts from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


def parse_header(path: Path) -> list[TensorInfo]:
    """Read the header of a safetensors file and return its tensors in the order of their bytes.

    Raises CheckpointError when the file cannot be read, is a pickle, or breaks a rule of the format: stricter
    than the reference reader, which takes a key twice, other characters before the first brace, unprintable
    names and headers of 100 MB.
    """
    where = shown(path.name)
    with reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(9)
        length = _header_length(start, size, where)
        data = start[8:] + file.read(length - 1)
    header = parse_object(data, f"{where}: the header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise CheckpointError(f"{where}: __metadata__ is not a table of strings", DAMAGED)
    if len(header) > _MAX_TENSORS:
        raise CheckpointError(f"{where} has {len(header)} tensors, over {_MAX_TENSORS}", DAMAGED)
    tensors = [_tensor(path, name, entry, 8 + length) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_layout(tensors, 8 + length, size, where)
    return tensors


def write_header(entries: Sequence[tuple[str, str, Sequence[int]]]) -> bytes:
    """Return the header of a file that holds `entries` (name, dtype, shape) one right after the other.

    The data starts at a multiple of 64. Raises ValueError when a name or dtype is bad, a name comes twice, or
    the header is over the limits that parse_header sets.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, dtype, shape in entries:
        if name in header or dtype not in DTYPES or not _is_name(name) or name == "__metadata__":
            raise ValueError(f"tensor {name!r} of {dtype}: a bad name, a name given twice, or a bad dtype")
        begin, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    data = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    data += b" " * (-(8 + len(data)) % _ALIGNMENT)
    if len(data) > _MAX_HEADER or len(header) > _MAX_TENSORS:
        raise ValueError(f"a header of {len(header)} tensors and {len(data)} bytes is too large for one file")
    return len(data).to_bytes(8, "little") + data


def _header_length(start: bytes, size: int, where: str) -> int:
    """Return the length of the header; `start` is the length field and the first character after it."""
    length = int.from_bytes(start[:8], "little")
    if length <= _MAX_HEADER and start[8:] == b"{":
        if 8 + length <= size:
            return length
        message = f"is truncated: {size} bytes are there and the header alone needs {8 + length}"
        raise CheckpointError(f"{where} {message}", DAMAGED)
    # Only here, because a sound file whose header has 0x280 bytes begins as a pickle does.
    if start.startswith(_ZIP + _PICKLE):
        raise CheckpointError(f"{where} is a pickle renamed: loading it could run code", TO_SAFETENSORS)
    if start.startswith(b"version "):
        raise CheckpointError(f"{where} is a Git LFS pointer, not the weights", "run `git lfs pull` there")
    if len(start) < 9:
        raise CheckpointError(f"{where} is truncated: {size} bytes are there, not even a header", DAMAGED)
    if length > _MAX_HEADER:
        message = f"asks for a header of {length} bytes, over {_MAX_HEADER >> 20} MiB"
        raise CheckpointError(f"{where} {message}", "it is not a safetensors file, or it is damaged")
    raise CheckpointError(f"{where}: the header does not begin with '{{'", DAMAGED)


def _tensor(path: Path, name: str, entry: object, start: int) -> TensorInfo:
    """Check one entry of the header by itself; the data starts at `start`."""
    where = f"{shown(path.name)}: tensor '{shown(name)}'"
    if not _is_name(name):
        raise CheckpointError(f"{where}: the name is empty or has characters that cannot be printed", DAMAGED)
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]}:
            pass
        case _:
            raise CheckpointError(f"{where} is not described by dtype, shape and two data_offsets", DAMAGED)
    if dtype not in DTYPES:
        short = shown(dtype)  # also for the hint, which measures how near the known ones are
        raise CheckpointError(f"{where} has the unknown dtype '{short}'", known_names(short, DTYPES))
    if len(shape) > _MAX_RANK or not all(_is_size(n) for n in [*shape, begin, end]):
        rule = f"whole numbers from 0 to 2^63-1, at most {_MAX_RANK} dimensions"
        raise CheckpointError(f"{where}: shape and data_offsets must be {rule}", DAMAGED)
    # numpy counts an empty dimension as 1 when it asks whether an array can be addressed
    if math.prod(max(n, 1) for n in shape) * DTYPES[dtype].itemsize >= 2**63:
        raise CheckpointError(f"{where}: the shape {shape} is too large for any machine", DAMAGED)
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != needed:
        message = f"{dtype} {shape} has {needed} bytes, but [{begin}, {end}] spans {end - begin}"
        raise CheckpointError(f"{where}: {message}", DAMAGED)
    return TensorInfo(name, dtype, tuple(shape), path, start + begin, needed)


def _check_layout(tensors: Sequence[TensorInfo], start: int, size: int, where: str) -> None:
    """Check that the tensors, sorted by offset, fill the file from `start` to `size`, each byte once."""
    at, before = start, ""
    for tensor in tensors:
        name = shown(tensor.name)
        if tensor.offset < at:
            raise CheckpointError(f"{where}: tensors '{before}' and '{name}' overlap", DAMAGED)
        if tensor.offset > at:
            hole = f"{tensor.offset - at} bytes before tensor '{name}' belong to no tensor"
            raise CheckpointError(f"{where}: {hole}", DAMAGED)
        at, before = at + tensor.nbytes, name
    if at > size:
        message = f"is truncated: {size} bytes are there and its header needs {at}"
        raise CheckpointError(f"{where} {message}", DAMAGED)
    if at < size:
        raise CheckpointError(f"{where}: {size - at} bytes after the last tensor belong to none", DAMAGED)


def _is_name(name: str) -> bool:
    return name != "" and name.isprintable()


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63  # type(), because True is an int to isinstance
