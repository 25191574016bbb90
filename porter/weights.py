"""Which bytes of the checkpoint become which weight of the port: rules, strict binding both ways, reading.

Every weight of a port is a concatenation of row ranges of source tensors, reshaped, and cast at most once. Nothing
else is needed for the families known, so a rule is data: it can be re-run, compared, or pointed at.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from porter.blocks.module import Parameter
from porter.checkpoint import Checkpoint
from porter.errors import FamilyError
from porter.fp8 import Fp8Blocks

FLOATS = {"F64", "F32", "F16", "BF16"}
HOPELESS = 100_000  # tensors missing after which no more are looked for
CHUNK_BYTES = 64 * 2**20  # how much of a weight is held at once while it is read


@dataclass(frozen=True)
class Piece:
    """Rows start…stop of a source tensor of the given shape (all rows by default)."""

    source: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int | None = None


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


class Source:
    """A checkpoint's tensors as the network means them: FP8 blocks and their scales read as one tensor."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.fp8 = Fp8Blocks.of(checkpoint)

    def names(self) -> set[str]:
        """The tensors there are, scales left out."""
        return set(self.checkpoint.tensors) - (self.fp8.scales if self.fp8 else set())

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.checkpoint.tensors[name].shape

    def readable(self, name: str) -> bool:
        """Whether a tensor holds the numbers it means."""
        return self.checkpoint.tensors[name].dtype in FLOATS or (self.fp8 is not None and name in self.fp8.weights)

    def rows(self, piece: Piece) -> Iterator[np.ndarray]:
        """The piece's rows, a bounded number of bytes at a time, in the source's own dtype (float32 for FP8)."""
        array = self.checkpoint.read(piece.source)
        stop = piece.stop if piece.stop is not None else (array.shape[0] if array.ndim else 0)
        if array.ndim == 0:
            yield array
            return
        row = max(1, array.nbytes // max(1, array.shape[0]))
        step = max(1, CHUNK_BYTES // row)
        for begin in range(piece.start, stop, step):
            end = min(begin + step, stop)
            if self.fp8 and piece.source in self.fp8.weights:
                yield self.fp8.decode(piece.source, begin, end)
            else:
                yield array[begin:end]


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
    return Binding(tuple(weights), _account(names - used, drops))


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
            raise FamilyError(message, f"known: {', '.join(sorted(FLOATS))}, and F8_E4M3 with block scales")


def _account(left: set[str], drops: Sequence[Drop]) -> dict[str, str]:
    dropped, extra = {}, []
    for name in sorted(left):
        reason = next((d.reason for d in drops if re.fullmatch(d.pattern, name)), None)
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
    shown = ", ".join(f"'{n}'" for n in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {shown}{more}"


def chunks(weight: Weight, source: Source, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The weight's content in order, a bounded number of bytes at a time, at `dtype`.

    Raises FamilyError when a value does not fit the dtype: a weight silently become infinite is a broken model.
    """
    name = weight.parameter.name
    if weight.parameter.table is not None:
        yield _cast(weight.parameter.table(), dtype, name)
        return
    for piece in weight.pieces:
        for rows in source.rows(piece):
            yield _cast(rows, dtype, piece.source)


def _cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    if array.dtype == dtype:
        return np.ascontiguousarray(array)
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if dtype.itemsize < array.dtype.itemsize or dtype == np.float16:
        grown = ~np.isfinite(result) & np.isfinite(array)
        if grown.any():
            largest = float(np.abs(array[grown].astype(np.float64)).max())
            raise FamilyError(
                f"tensor '{name}' holds {largest:.3g}, which {dtype.name} cannot",
                "use --dtype float32 or --dtype bfloat16",
            )
    return np.ascontiguousarray(result)
