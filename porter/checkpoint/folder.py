"""A checkpoint folder: its config, its tensors, and the small files that travel with a port."""

from __future__ import annotations

import math
import os
from bisect import bisect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from porter.checkpoint.config import read_config
from porter.checkpoint.files import names_in, reading, shown
from porter.checkpoint.safetensors import DTYPES, TensorInfo
from porter.checkpoint.shards import find_tensors
from porter.errors import CheckpointError, known_names

_CARRIED = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


class Read(Protocol):
    """Reads rows start…stop of a tensor; along axis 1, those columns of every row of a matrix."""

    def __call__(self, name: str, start: int, stop: int, axis: int = 0) -> np.ndarray[Any, Any]: ...


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A Hugging Face folder; no byte of a tensor is read before it is asked for."""

    folder: Path
    config: dict[str, Any] = field(repr=False)
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    files: tuple[Path, ...]

    def read(self, name: str, start: int = 0, stop: int | None = None, axis: int = 0) -> np.ndarray[Any, Any]:
        """Return rows start…stop of a tensor (all of them by default), read into memory of their own; along axis 1,
        those columns of every row of a matrix.

        Not mapped: pages of a map count as the process' memory, and a file that is cut meanwhile would kill it.
        Raises CheckpointError when there is no such tensor, or its file went away or was cut.
        """
        info = self.tensors.get(name)
        if info is None:
            names = list(self.tensors)  # up to 200,000: the hint takes the ones that sort next to `name`
            near = bisect(names, name)
            hint = known_names(shown(name), names[max(0, near - 8) : near + 8])
            raise CheckpointError(f"the checkpoint has no tensor '{shown(name)}'", hint)
        dtype, shape = DTYPES[info.dtype], list(info.shape)
        if shape:
            start, stop, _ = slice(start, stop).indices(shape[axis])
            shape[axis] = max(0, stop - start)
        read = np.empty(shape, dtype)
        one = dtype.itemsize * math.prod(info.shape[axis + 1 :])
        count = info.shape[0] if axis else 1  # of what lies in one piece in the file
        length, apart = read.nbytes // max(1, count), info.nbytes // max(1, count)
        data, at = read.reshape(-1).view(np.uint8).data, info.offset + start * one
        with reading(info.file) as file:
            for n in range(count):
                if not _fill(data[n * length : (n + 1) * length], file.fileno(), at + n * apart):
                    message = f"{shown(info.file.name)} was cut within or before tensor '{shown(name)}'"
                    raise CheckpointError(message, "leave the checkpoint alone while it is read")
        return read

    @property
    def dtype(self) -> str:
        """The floating dtype that holds the most bytes, as safetensors spells it.

        Raises CheckpointError when no tensor is floating.
        """
        nbytes: Counter[str] = Counter()
        for tensor in self.tensors.values():
            if tensor.dtype.startswith(("F", "BF")):
                nbytes[tensor.dtype] += tensor.nbytes
        if not nbytes:
            message = f"{shown(str(self.folder))}: no tensor is floating-point"
            raise CheckpointError(message, "give the folder of a language model")
        return max(nbytes, key=lambda dtype: (nbytes[dtype], dtype))

    def carried_files(self) -> tuple[Path, ...]:
        """Return the tokenizer and config files that a port needs to be run, sorted by name.

        Raises CheckpointError when the folder went away.
        """
        names = [name for name in names_in(self.folder) if any(fnmatchcase(name, kind) for kind in _CARRIED)]
        return tuple(path for name in names if (path := self.folder / name).is_file())


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Open a checkpoint: read config.json, the index where there is one, and the headers of the shards.

    The layout is the one that transformers' PreTrainedModel.save_pretrained writes. Code and pickles in the
    folder are never opened. Raises CheckpointError when it is not a checkpoint or does not hold together.
    """
    folder = Path(folder)
    names = names_in(folder)
    config = read_config(folder)
    tensors = find_tensors(folder, names)
    if not tensors:
        raise CheckpointError(f"{shown(str(folder))}: the weights hold no tensor", "download them again")
    files = tuple(sorted({tensor.file for tensor in tensors.values()}))
    return Checkpoint(folder, config, MappingProxyType(tensors), files)


def _fill(buffer: memoryview, descriptor: int, offset: int) -> bool:
    """Read as many bytes as the buffer holds; False where the file ends before."""
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            return False
        done += count
    return True
