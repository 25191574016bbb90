"""Parts of a model that are in memory at once: what does not fit whole is walked through part by part.

Every story of a verification is told of the first part before the second is read, so that a checkpoint larger than
memory is read once or a few times, not once a call.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from porter.errors import ParityError
from porter.model import Model

OWN_USE = 1_500_000_000  # bytes that the libraries and what passes between parts take
WHOLE = 20  # bytes a parameter with all sides loaded: 8 in float64, 4 in float32, 8 while ONNX Runtime reads its own
PART = 12  # bytes a parameter where one side at a time is: 8 in float64, and what it is read from
LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.")


@dataclass(frozen=True)
class Stage:
    """Consecutive layers, with the embedding in front of them and the head (final norm and output) behind, or not."""

    layers: range
    embedding: bool
    head: bool

    def __str__(self) -> str:
        ends = (["embedding"] if self.embedding else []) + ([self._numbers()] if self.layers else [])
        return ", ".join(ends + (["head"] if self.head else []))

    def _numbers(self) -> str:
        first, last = self.layers[0], self.layers[-1]
        return f"layer {first}" if first == last else f"layers {first} to {last}"

    def holds(self, name: str) -> bool:
        """Whether a weight of this name belongs to its layers."""
        found = LAYER.match(name)
        return found is not None and int(found[1]) in self.layers


@dataclass(frozen=True)
class Stages:
    """The stages in their order; `resident` where all of them stay in memory."""

    parts: tuple[Stage, ...]
    resident: bool

    @property
    def layers(self) -> list[int]:
        """The numbers of the layers that are walked through."""
        return [n for part in self.parts for n in part.layers]


def whole(layers: int) -> Stages:
    """A model in one piece."""
    return Stages((Stage(range(layers), embedding=True, head=True),), resident=True)


def plan_stages(model: Model, memory: int | None = None, only: Sequence[range] | None = None) -> Stages:
    """As few stages as fit into so many bytes of memory, by default most of what is free; of some layers `only`."""
    layers = model.config.num_hidden_layers
    room = (memory if memory is not None else int(0.8 * free_memory())) - OWN_USE
    sizes = _sizes(model)
    spans = [range(layers)] if only is None else list(only)
    wanted = sum(sizes[n] for span in spans for n in span) + sizes[-1]
    if resident := wanted * WHOLE <= room:
        if only is None:
            return whole(layers)
        parts = spans
    else:
        parts = [part for span in spans for part in _parts(span, sizes, room)]
    inner = (Stage(part, embedding=False, head=False) for part in parts)
    first, last = Stage(range(0), embedding=True, head=False), Stage(range(layers, layers), embedding=False, head=True)
    return Stages((first, *inner, last), resident)


def parse_layers(text: str, layers: int) -> tuple[range, ...]:
    """`0-3,58-60`: layers in order, first and last included.

    Raises ParityError for what is no such list, or names layers that are not there.
    """
    spans = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if found is None:
            raise ParityError(f"--layers takes numbers and ranges, not '{part}'", "write --layers 0-3,58-60")
        spans.append(range(int(found[1]), int(found[2] or found[1]) + 1))
    numbers = [n for span in spans for n in span]
    if not numbers or numbers != sorted(set(numbers)) or not all(spans) or numbers[-1] >= layers:
        raise ParityError(f"'{text}' is no slice of layers 0 to {layers - 1}", "name each once, in order: 0-3,58-60")
    return tuple(spans)


def free_memory() -> int:
    """Bytes that may be used: what the machine has free, or its control group allows, whichever is less."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    known = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    group = _read("/sys/fs/cgroup/memory.max").strip()
    return min(free, 1024 * int(known[1]) if known else free, int(group) if group.isdigit() else free)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:  # not on every system
        return ""


def _sizes(model: Model) -> Counter[int]:
    """Parameters of each layer, and under -1 those of none."""
    sizes: Counter[int] = Counter()
    for weight in model.binding.weights:
        found = LAYER.match(weight.parameter.name)
        sizes[int(found[1]) if found else -1] += math.prod(weight.parameter.shape)
    return sizes


def _parts(span: range, sizes: Counter[int], room: int) -> Iterator[range]:
    """As many layers at once as there is room for; one at least."""
    start = span.start
    while start < span.stop:
        stop = start + 1
        while stop < span.stop and PART * sum(sizes[n] for n in range(start, stop + 1)) <= room:
            stop += 1
        yield range(start, stop)
        start = stop
