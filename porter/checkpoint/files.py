"""Files from strangers: regular ones only, strict JSON, and names that are safe to print."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from porter.errors import CheckpointError, first_few

DAMAGED = "the file is damaged: mend it or download it again"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def shown(text: str) -> str:
    """Return `text` as it may be printed: escaped where a terminal would act on it, cut where endless."""
    cut = text if len(text) <= 160 else f"{text[:160]}…"
    return cut if cut.isprintable() else repr(cut)[1:-1]


def listed(names: Sequence[str]) -> str:
    """Return the first eight of `names`, and how many more there are."""
    return first_few([shown(name) for name in names], 8)


def names_in(folder: Path) -> list[str]:
    """Return the names of what is in a folder, sorted.

    Raises CheckpointError when it is not a folder that can be read.
    """
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        hint = "give the folder that holds config.json and *.safetensors"
        raise CheckpointError(f"{shown(str(folder))} cannot be opened: {reason}", hint) from error


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; links are followed, because the Hugging Face cache is made of them.

    Raises CheckpointError when the file is missing, not a regular file, or cannot be read.
    """
    name = shown(path.name)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # asked first: opening a pipe would wait for its writer
            raise CheckpointError(f"{name} is not a regular file", "put the file itself there")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        what = "is a link to a file that is not there" if path.is_symlink() else "is missing"
        hint = "a checkpoint is a folder with config.json and *.safetensors: download what is missing"
        raise CheckpointError(f"{shown(str(path.parent))}: {name} {what}", hint) from error
    except OSError as error:
        hint = "check that the disk is well and that you may read the file"
        raise CheckpointError(f"{name} cannot be read: {error.strerror}", hint) from error


def read_object(path: Path, limit: int) -> dict[str, Any]:
    """Read a JSON object of at most `limit` bytes from a file.

    Raises CheckpointError, as `reading` and `parse_object` do, and when the file is larger.
    """
    with reading(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CheckpointError(f"{shown(path.name)} is larger than {limit >> 20} MiB", DAMAGED)
    return parse_object(data, shown(path.name))


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object as RFC 8259 wants it: no key twice, no NaN, no Infinity, text that is Unicode.

    Raises CheckpointError, which begins with `where`, when it is anything else.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_finite,
            parse_float=_finite,
        )
        if _SURROGATE.search(data):  # half of a pair is a string that cannot be printed or written
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise CheckpointError(f"{where} is nested too deeply", DAMAGED) from None
    except ValueError as error:
        raise CheckpointError(f"{where} is not valid JSON: {shown(str(error))}", DAMAGED) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is not a JSON object", DAMAGED)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key '{shown(twice)}' stands there twice")
    return found


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):  # NaN, Infinity, and 1e999, which Python would read as infinity
        raise ValueError(f"{shown(number)} is not a finite number")
    return value
