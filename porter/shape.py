"""The sizes that a port's graphs have: all growing and named, or fixed by `--shape` in graphs of their own.

batch=1,sequence=128,context=4096       a graph for prefill and one for decode, every dimension a number
batch=1,sequence=128/512,context=4096   several lengths: gears of one graph where a front end has them, else graphs
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from porter.errors import TargetError, known_names

Size = int | str  # a number, or the name of what may vary

KEYS = ("batch", "sequence", "context")
LARGEST = 2**24
EXAMPLE = "write --shape batch=1,sequence=128,context=4096; several lengths as 128/512"


@dataclass(frozen=True)
class Sizes:
    """Of one graph: tokens [batch, sequence], and a cache of `context` places that tokens are written into by their
    position; without a context the cache grows, new places behind the past ones.
    """

    batch: Size = "batch"
    sequence: Size = "sequence"
    context: Size | None = None
    tokens: int | None = None  # the most of a call, where that is known


@dataclass(frozen=True)
class Phase:
    """One graph of a port: what it is for, its file, its sizes; `gears` are what its varying sizes can be together."""

    name: str
    file: str
    sizes: Sizes
    gears: tuple[Mapping[str, int], ...] = ()


GROWING = (Phase("prefill and decode", "model.onnx", Sizes()),)


@dataclass(frozen=True)
class Shape:
    """What `--shape` asks for: a batch, and one or several lengths of a prompt's piece and of the cache."""

    batch: int
    sequences: tuple[int, ...]
    contexts: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Shape:
        """`batch=1,sequence=128/512,context=4096`; batch is 1 and sequence 1 where they are not given.

        Raises TargetError for what is no shape.
        """
        given: dict[str, tuple[int, ...]] = {}
        for part in text.split(","):
            key, _, value = part.strip().partition("=")
            if key not in KEYS:
                raise TargetError(f"--shape names '{key}'", known_names(key, KEYS))
            if key in given:
                raise TargetError(f"--shape names '{key}' twice", EXAMPLE)
            given[key] = _lengths(key, value)
        if "context" not in given:
            raise TargetError("--shape gives no context, the places of the cache", EXAMPLE)
        batches = given.get("batch", (1,))
        if len(batches) > 1:
            raise TargetError("--shape gives several batches", "one batch for a port: convert once more for another")
        shape = cls(batches[0], given.get("sequence", (1,)), given["context"])
        if shape.sequences[-1] > shape.contexts[0]:
            message = f"--shape: sequence {shape.sequences[-1]} does not fit into context {shape.contexts[0]}"
            raise TargetError(message, "the cache has to hold every token of a call")
        return shape

    def __str__(self) -> str:
        """The same, in one spelling."""
        lengths = ("/".join(map(str, sizes)) for sizes in ((self.batch,), self.sequences, self.contexts))
        return ",".join(f"{key}={length}" for key, length in zip(KEYS, lengths, strict=True))

    def phases(self, gears: bool) -> tuple[Phase, ...]:
        """The graphs: prefill for each length above one token, and decode for one; with `gears` one graph of each."""
        prompts = tuple(n for n in self.sequences if n > 1)
        kinds = (("prefill", prompts), ("decode", (1,)))
        return tuple(
            phase
            for name, sequences in kinds
            if sequences
            for phase in (self._geared(name, sequences) if gears else self._apart(name, sequences))
        )

    def _geared(self, name: str, sequences: tuple[int, ...]) -> tuple[Phase, ...]:
        sizes = Sizes(
            self.batch,
            _one_or("sequence", sequences),
            _one_or("context", self.contexts),
            self.batch * sequences[-1],
        )
        found = [{"sequence": s, "context": c} for s, c in product(sequences, self.contexts)]
        varying = [key for key in ("sequence", "context") if isinstance(getattr(sizes, key), str)]
        gears = tuple({key: gear[key] for key in varying} for gear in found) if varying else ()
        return (Phase(name, f"{name}.onnx", sizes, gears),)

    def _apart(self, name: str, sequences: tuple[int, ...]) -> tuple[Phase, ...]:
        found = []
        for s, c in product(sequences, self.contexts):
            ends = [str(s)] * (len(sequences) > 1) + [str(c)] * (len(self.contexts) > 1)
            file = "-".join((name, *ends)) + ".onnx"
            found.append(Phase(name, file, Sizes(self.batch, s, c, self.batch * s)))
        return tuple(found)


def _lengths(key: str, text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]{1,9}(/[0-9]{1,9})*", text):
        raise TargetError(f"--shape: {key} is '{text}', which is no length", EXAMPLE)
    lengths = tuple(sorted({int(n) for n in text.split("/")}))
    if not 1 <= lengths[0] <= lengths[-1] <= LARGEST:
        raise TargetError(f"--shape: {key} is {text}", f"a length lies between 1 and {LARGEST}")
    return lengths


def _one_or(name: str, lengths: tuple[int, ...]) -> Size:
    return lengths[0] if len(lengths) == 1 else name
