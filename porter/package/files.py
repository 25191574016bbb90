"""Small files of a port folder, and what the manifest says of a file."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "porter.json"
SIGNATURE = "porter.sig"
GRAPH = "model.onnx"
PARTS = ("graphs", "weights", "files")  # of a manifest: what lists the files of a port
CHECKPOINT = "checkpoint"  # under `of` in the entry of a file that is not the port's own but the checkpoint's


def write_file(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    """Writes a small file, over what an interrupted run left; gives its entry in the manifest."""
    with (folder / name).open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Puts new content into a file that stands, in one step."""
    fresh = folder / f".{name}.new"
    try:
        write_file(folder, fresh.name, data)
        fresh.rename(folder / name)
    finally:
        fresh.unlink(missing_ok=True)


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


def sync(folder: Path) -> None:
    """Puts a folder's entries on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
