"""Weights that are not written at all: the graph points into the checkpoint's own shards.

ONNX readers take only regular files in or below the model's folder: no link, nothing through `..`. So the port lies in
the checkpoint's folder, or its shards are clones that share their blocks with the originals (FICLONE, `man 2
ioctl_ficlonerange`; Btrfs, XFS, bcachefs, APFS-like).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from porter.checkpoint import TensorInfo
from porter.errors import PortError
from porter.package.plan import SAFETENSORS, Place
from porter.weights import Weight

FICLONE = 0x40049409
NOT_HERE = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM}


@dataclass(frozen=True)
class Reference:
    """A weight that lies in a shard as the port needs it."""

    file: Path
    place: Place


def reference(weight: Weight, tensors: Mapping[str, TensorInfo], port_dtype: ir.DataType) -> Reference | None:
    """Where in the shards a weight lies byte for byte; None where it does not: another dtype, computed, quantized, or
    in pieces that do not follow one another.

    The range is that of the parsed header's tensors, so it cannot be off.
    """
    stored = weight.parameter.stored(port_dtype)
    if any(piece.source not in tensors for piece in weight.pieces):
        return None  # packed under other names
    spans = [_span(tensors, piece.source, *piece.rows) for piece in weight.pieces]
    if len(stored) != 1 or not spans:
        return None
    name, dtype, shape = stored[0]
    if any(tensors[piece.source].dtype != SAFETENSORS[dtype] for piece in weight.pieces):
        return None
    file, begin, end = spans[0]
    for next_file, next_begin, next_end in spans[1:]:
        if (next_file, next_begin) != (file, end):
            return None
        end = next_end
    return Reference(file, Place(name, dtype, shape, begin, end - begin))


def refuse_links(files: Sequence[Path]) -> None:
    """Raises PortError for shards that ONNX readers will not open: links, of either kind."""
    for file in files:
        if file.is_symlink() or file.stat().st_nlink > 1:
            kind = "symbolic" if file.is_symlink() else "hard"
            raise PortError(
                f"'{file.name}' is a {kind} link, which readers of ONNX refuse",
                "use --weights copy, or put the file itself there",
            )


def clone(source: Path, copy: Path) -> None:
    """Makes `copy` a file of its own that shares the blocks of `source`. Raises PortError where that cannot be."""
    with source.open("rb") as old, copy.open("wb") as new:
        try:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
        except OSError as error:
            if error.errno not in NOT_HERE:
                raise
            raise PortError(
                f"'{copy.parent.parent.parent}' cannot share blocks with '{source.name}': {os.strerror(error.errno)}",
                "make the port in place (-o CHECKPOINT), choose a folder on the checkpoint's own Btrfs or XFS, or use "
                "--weights copy",
            ) from None


def _span(tensors: Mapping[str, TensorInfo], name: str, start: int, stop: int) -> tuple[Path, int, int]:
    info = tensors[name]
    row = info.nbytes // info.shape[0] if info.shape and info.shape[0] else info.nbytes
    return info.file, info.offset + start * row, info.offset + stop * row
