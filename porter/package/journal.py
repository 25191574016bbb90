"""What is finished of a file, so that an interrupted conversion goes on: one line a piece, believed only when the bytes
on disk still have the digest that the line gives.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Line:
    """A finished piece: the SHA-256 of what was stored, one for each tensor, and of the source ranges it came from."""

    stored: tuple[str, ...]
    source: dict[str, str]


class Journal:
    """The journal of one weight file; `finished` are the pieces that an earlier run wrote, in order."""

    def __init__(self, path: Path) -> None:
        self.finished = _lines(path)
        self._out: BinaryIO = path.open("r+b" if path.exists() else "xb", buffering=0)

    def keep(self, count: int) -> None:
        """Forgets all but the first `count` pieces; what follows is written behind them."""
        self._out.seek(0)
        self._out.truncate()
        for line in self.finished[:count]:
            self.add(line)

    def add(self, line: Line) -> None:
        """Notes a piece as finished."""
        self._out.write(json.dumps([line.stored, line.source]).encode() + b"\n")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._out.close()


def _lines(path: Path) -> list[Line]:
    """The whole lines of a journal; the last may have been cut off by a crash."""
    lines: list[Line] = []
    if path.exists():
        for text in path.read_bytes().split(b"\n")[:-1]:
            try:
                stored, source = json.loads(text)
            except ValueError:  # a power cut can leave anything
                break
            lines.append(Line(tuple(stored), dict(source)))
    return lines
