"""Which bytes of the checkpoint become which weight of the port: rules, strict binding both ways, reading.

Every weight of a port is a concatenation of row ranges of source tensors, reshaped, and cast at most once. Nothing
else is needed for the families known, so a rule is data: it can be re-run, compared, or pointed at.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from porter.blocks.module import Parameter
from porter.cast import cast
from porter.checkpoint import Read
from porter.errors import FamilyError, first_few
from porter.formats import decode
from porter.layout import Cut
from porter.source import FLOATS, Source

HOPELESS = 100_000  # tensors missing after which no more are looked for

FLOAT32 = np.dtype(np.float32)

Parts = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Piece:
    """Rows start…stop of a source tensor of the given shape (all by default), or of each row a part."""

    source: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int | None = None
    inner: tuple[tuple[int, int], ...] | None = None  # the span along each of the other axes

    @property
    def rows(self) -> tuple[int, int]:
        """The first row, and the one after the last; a scalar is one row."""
        return self.start, self.stop if self.stop is not None else (self.shape[0] if self.shape else 1)

    @property
    def size(self) -> int:
        """How many numbers it has."""
        start, stop = self.rows
        spans = self.inner if self.inner is not None else [(0, n) for n in self.shape[1:]]
        return (stop - start) * math.prod(after - first for first, after in spans)

    def picked(self, rows: np.ndarray) -> np.ndarray:
        """Its part of some rows."""
        if self.inner is None:
            return rows
        return np.ascontiguousarray(rows[:, *(slice(*span) for span in self.inner)])


@dataclass(frozen=True)
class Rule:
    """Weight `target` is made of the pieces of the first alternative whose first tensor is there.

    `*` in the target stands for a prefix, and for the same prefix in the sources.
    """

    target: str
    alternatives: tuple[tuple[Piece, ...], ...]


@dataclass(frozen=True)
class Drop:
    """Source tensors that a port leaves out, and why."""

    pattern: str  # a regular expression that the whole name must match
    reason: str


@dataclass(frozen=True)
class Weight:
    """A parameter with the pieces it is made of."""

    parameter: Parameter
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Binding:
    """Every weight of a network bound, every source tensor accounted for."""

    weights: tuple[Weight, ...]
    dropped: Mapping[str, str] = field(default_factory=dict)  # source name → reason


def bind(parameters: Sequence[Parameter], rules: Sequence[Rule], drops: Sequence[Drop], source: Source) -> Binding:
    """Binds every parameter and accounts for every source tensor.

    Raises FamilyError naming tensors that are missing, of the wrong shape (with both shapes), or left over.
    """
    names = source.names()
    weights, used, missing = [], set(), []
    for parameter in parameters:
        if parameter.table is not None:
            weights.append(Weight(parameter, ()))
            continue
        pieces = _pieces(parameter, rules, names)
        missing += [p.source for p in pieces if p.source not in names]
        used |= {p.source for p in pieces}
        weights.append(Weight(parameter, pieces))
        if len(missing) > HOPELESS:
            break
    if missing:
        raise FamilyError(
            f"the checkpoint lacks {_list(missing)}", "the download may be incomplete, or config.json of another model"
        )
    for weight in weights:
        _check_pieces(weight, source)
    return Binding(tuple(weights), _account(names - used, drops, source))


def share(binding: Binding, parameters: Sequence[Parameter]) -> Binding:
    """What of a whole network's weights a rank holds: the same pieces, cut down to its part."""
    whole = {weight.parameter.name: weight.pieces for weight in binding.weights}
    weights = []
    for parameter in parameters:
        pieces = whole[parameter.name]
        weights.append(Weight(parameter, pieces if parameter.cut is None else tuple(_cut(pieces, parameter.cut))))
    return Binding(tuple(weights), binding.dropped)


def _cut(pieces: Sequence[Piece], cut: Cut) -> Iterator[Piece]:
    runs, at = deque(cut.rows()), 0
    for piece in pieces:
        first, after = piece.rows
        each = math.prod(piece.shape[1:]) // cut.width  # rows of the weight in a row of the source
        end = at + (after - first) * each
        while runs and runs[0][0] < end:
            start, stop = runs.popleft()
            yield from _part(piece, start - at, min(stop, end) - at, each, cut)
            if stop > end:
                runs.appendleft((end, stop))
        at = end


def _part(piece: Piece, start: int, stop: int, each: int, cut: Cut) -> Iterator[Piece]:
    """Of a piece the rows start…stop, as the weight counts them; of a stack they may be some of a row of the source."""
    first, columns = piece.rows[0], cut.columns
    if start % each == 0 and stop % each == 0:
        inner = None if columns is None else (*((0, n) for n in piece.shape[1:-1]), columns)
        yield Piece(piece.source, piece.shape, first + start // each, first + stop // each, inner)
        return
    for row in range(start // each, -(-stop // each)):
        within = max(start - row * each, 0), min(stop - row * each, each)
        inner = (within, columns or (0, cut.width))
        yield Piece(piece.source, piece.shape, first + row, first + row + 1, inner)


def _pieces(parameter: Parameter, rules: Sequence[Rule], names: set[str]) -> tuple[Piece, ...]:
    for rule in rules:
        if fnmatch.fnmatchcase(parameter.name, rule.target):
            prefix = parameter.name[: len(parameter.name) - len(rule.target.lstrip("*"))] if "*" in rule.target else ""
            filled = [tuple(_fill(p, prefix) for p in pieces) for pieces in rule.alternatives]
            return next((pieces for pieces in filled if pieces[0].source in names), filled[-1])
    return (Piece(parameter.name, parameter.shape),)


def _fill(piece: Piece, prefix: str) -> Piece:
    return Piece(piece.source.replace("*", prefix, 1), piece.shape, piece.start, piece.stop)


def _check_pieces(weight: Weight, source: Source) -> None:
    for piece in weight.pieces:
        actual = source.shape(piece.source)
        if actual != piece.shape:
            raise FamilyError(
                f"tensor '{piece.source}' has shape {list(actual)}, but config.json asks for {list(piece.shape)}",
                "config.json and weights belong to different models, or one of them was edited",
            )
        if not source.readable(piece.source):
            dtype = source.checkpoint.tensors[piece.source].dtype
            message = f"tensor '{piece.source}' is {dtype}, which is no weight as it stands"
            known = ", ".join(sorted(FLOATS))
            raise FamilyError(message, f"known: {known}, and what quantization_config in config.json says is quantized")


def _account(left: set[str], drops: Sequence[Drop], source: Source) -> dict[str, str]:
    dropped, extra = {}, []
    for name in sorted(left):
        reason = next((d.reason for d in drops if re.fullmatch(d.pattern, name)), None) or source.idle(name)
        if reason is None:
            extra.append(name)
        else:
            dropped[name] = reason
    if extra:
        raise FamilyError(
            f"the checkpoint has {_list(extra)}, which nothing in this architecture reads",
            "config.json may be of another model, or the family does not know this variant yet",
        )
    return dropped


def _list(names: Sequence[str]) -> str:
    shown = first_few([f"'{n}'" for n in names], 3)
    return f"tensor{'s' if len(names) > 1 else ''} {shown}"


def content(weight: Weight, piece: Piece | None, source: Source, read: Read, dtype: ir.DataType) -> Iterator[Parts]:
    """What is stored of a piece (of the table, where there is none), in order, a bounded number of bytes at a time:
    one array for each tensor of `Parameter.stored`. Codes that lie in the form that is asked for stay what they are.

    Raises FamilyError when a value does not fit the dtype.
    """
    plain = weight.parameter.dtype(dtype).numpy()
    if piece is None:
        assert weight.parameter.table is not None
        yield (cast(weight.parameter.table(), plain, weight.parameter.name),)
        return
    form = weight.parameter.quantization
    if form is None:
        for rows in source.rows(read, piece.source, *piece.rows, plain):
            yield (piece.picked(rows),)
    elif source.form(piece.source) == form and piece.inner is None:
        for codes in source.codes(read, piece.source, *piece.rows, FLOAT32.itemsize):
            in_order = codes.order is None  # config.json need not say that groups are no neighbours
            kept = form.keep(codes.values, codes.scales, codes.zeros) if in_order else None
            yield form.encode(decode(codes, FLOAT32, piece.source), piece.source) if kept is None else kept
    else:
        for rows in source.rows(read, piece.source, *piece.rows, FLOAT32):
            yield form.encode(piece.picked(rows), piece.source)


def chunks(weight: Weight, source: Source, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The whole weight's numbers in order, a bounded number of bytes at a time, at `dtype`.

    Raises FamilyError when a value does not fit the dtype.
    """
    if weight.parameter.table is not None:
        yield cast(weight.parameter.table(), dtype, weight.parameter.name)
    for piece in weight.pieces:
        yield from map(piece.picked, source.rows(source.checkpoint.read, piece.source, *piece.rows, dtype))
