"""SHA-256 of files, remembered for as long as a file is as it was: in the user's cache folder, a list for each folder.

A file is taken to be as it was while its size, inode and both times are. The time of modification anybody can put back;
the time of change, which every write moves, only who sets the machine's clock. A digest is not relied on where the file
changed less than a moment before it was taken, since a clock that ticks slowly gives two writes the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MOMENT = 2_000_000_000  # nanoseconds: no file system's clock ticks more slowly

Entry = Mapping[str, Any]


def cache_folder() -> Path:
    """Where porter remembers things: $PORTER_CACHE, or `porter` in the user's own cache folder."""
    if named := os.environ.get("PORTER_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "porter"


class Digests:
    """Takes digests of files and remembers them below a folder; where that cannot be written it just takes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "digests"

    def of(self, paths: Iterable[Path]) -> dict[Path, str]:
        """The SHA-256 of each, read only where it is not known. Raises OSError where one cannot be."""
        by_folder: dict[Path, list[Path]] = defaultdict(list)
        for path in paths:
            by_folder[path.absolute().parent].append(path)
        with ThreadPoolExecutor() as pool:
            return {p: d for folder, files in by_folder.items() for p, d in self._in(folder, files, pool).items()}

    def _in(self, folder: Path, paths: list[Path], pool: ThreadPoolExecutor) -> dict[Path, str]:
        list_ = self._folder / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()}.json"
        known = read_object(list_)
        states = {path: _state(path) for path in paths}
        fresh = [path for path in paths if not _holds(known.get(path.name), states[path])]
        taken = dict(zip(fresh, pool.map(_take, fresh), strict=True))
        if taken:
            kept = {name: entry for name, entry in known.items() if (folder / name).exists()}
            write_object(list_, kept | {path.name: entry for path, entry in taken.items()})
        return {path: (taken.get(path) or known[path.name])["sha256"] for path in paths}


def read_object(path: Path) -> dict[str, Any]:
    """What a JSON file of the cache holds; nothing where there is none, or it is damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def write_object(path: Path, document: Mapping[str, Any]) -> None:
    """Puts a JSON file into the cache, in one step; where that cannot be done nothing is remembered."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            fresh.write_text(json.dumps(document), encoding="utf-8")
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)


def _state(path: Path) -> dict[str, int]:
    """What tells that a file is another than before."""
    found = path.stat()
    return {
        "bytes": found.st_size,
        "modified_ns": found.st_mtime_ns,
        "changed_ns": found.st_ctime_ns,
        "inode": found.st_ino,
        "device": found.st_dev,
    }


def _holds(entry: object, state: Mapping[str, int]) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
        return False
    same = all(entry.get(name) == value for name, value in state.items())
    taken = entry.get("taken_ns")
    return same and isinstance(taken, int) and state["changed_ns"] + MOMENT < taken


def _take(path: Path) -> Entry:
    """The digest of a file, with its state before it was read: what changes it meanwhile is noticed the next time."""
    state, now = _state(path), time.time_ns()
    with path.open("rb") as file:
        return {**state, "taken_ns": now, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
