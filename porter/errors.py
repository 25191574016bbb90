"""What can go wrong that the user can mend.

PorterError
├── CheckpointError   the folder that is read: config.json, safetensors, index
├── FamilyError       the architecture: unknown, unsupported field, nonsense sizes, weights that do not bind
├── TargetError       the device or front end: unknown, contradictory data, an operator that it does not take
├── GraphError        a graph that is not what it claims to be
├── PortError         the port folder: exists already, incomplete, not writable
├── ParityError       a comparison that cannot be made
└── Interrupted       no mistake: the user stopped what can be gone on with

Each carries one line that says what is wrong and one that says the way out. They end the command line with exit code 2,
Interrupted with 130.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class PorterError(Exception):
    """An error the user can mend: `message` says what is wrong, `hint` the way out."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckpointError(PorterError):
    """The checkpoint cannot be read or does not hold together."""


class FamilyError(PorterError):
    """The architecture is unknown, or its config or weights do not fit it."""


class TargetError(PorterError):
    """The device or front end is unknown, or does not take what the graph needs."""


class GraphError(PorterError):
    """A graph breaks the rules that every finished graph keeps."""


class PortError(PorterError):
    """The port folder cannot be written or read."""


class ParityError(PorterError):
    """The comparison cannot be made."""


class Interrupted(PorterError):
    """The user stopped a run that can be gone on with."""


def first_few(names: Sequence[str], most: int) -> str:
    """The first `most` of the names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def known_names(name: str, known: Iterable[str]) -> str:
    """A hint that lists what is known, the nearest to `name` first."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    ordered = near + [n for n in names if n not in near]
    question = f"did you mean '{near[0]}'? " if near else ""
    return f"{question}known: {', '.join(ordered)}"
