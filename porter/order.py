"""What was asked for, and all that follows from it before a weight is read: the same wherever it is worked out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from porter import __version__
from porter.blocks.decoder import Decoder
from porter.cast import largest
from porter.errors import FamilyError, TargetError, first_few
from porter.layout import Layout
from porter.model import Model, shared_out, understand
from porter.package.plan import DTYPES, SAFETENSORS, SHARD_BYTES, PlannedFile, plan_files
from porter.package.reference import Reference, reference
from porter.quantize import Quantization
from porter.shape import EXAMPLE, GROWING, Phase, Shape
from porter.target import Frontend, Target, find_target
from porter.weights import Weight


@dataclass(frozen=True)
class Order:
    """The parameters of a conversion, as plain as the command line gives them: they travel to other machines."""

    checkpoint: Path
    target: str
    frontend: str | None = None
    dtype: str = "auto"
    attention: str = "auto"
    weights: str = "copy"
    quantize: str = "none"
    shard_size: int = SHARD_BYTES
    shape: str | None = None
    tp: int = 1
    ep: int = 1
    pp: int = 1
    places: dict[str, list[int]] | None = None

    @property
    def layout(self) -> Layout:
        """How many cards there are, and what is divided over them."""
        return Layout(self.tp, self.ep, self.pp)


@dataclass(frozen=True)
class Rank:
    """One of several cards: its share of the network, and the files in its folder with its share of the weights."""

    layout: Layout
    model: Model
    files: tuple[PlannedFile, ...]

    @property
    def folder(self) -> str:
        """Where its files lie in the port."""
        return folder_of(self.layout.rank)


def folder_of(rank: int) -> str:
    """The folder of a rank, as file names begin with it."""
    return f"rank-{rank:02d}/"


@dataclass(frozen=True)
class Work:
    """An order worked out: the checkpoint understood, and where every weight will lie."""

    order: Order
    target: Target
    model: Model
    dtype: ir.DataType
    dtype_reason: str
    shape: Shape | None  # None where sizes are open
    phases: tuple[Phase, ...]
    files: tuple[PlannedFile, ...]
    references: tuple[Reference, ...]
    ranks: tuple[Rank, ...] = ()  # none where there is one card

    @property
    def new_bytes(self) -> int:
        """Bytes of weights that will be written."""
        return sum(file.size() for file in self.files)

    def shards(self) -> tuple[Path, ...]:
        """The checkpoint's files that the graph points into."""
        return tuple(sorted({r.file for r in self.references}))

    @property
    def networks(self) -> tuple[Decoder, ...]:
        """The network of each card."""
        return tuple(rank.model.network for rank in self.ranks) or (self.model.network,)

    @property
    def dtype_name(self) -> str:
        """The dtype as the command line and the manifest call it."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def minimum_past(self) -> int:
        """The masked cache places that a sequence begins with; none where the cache has its size from the beginning."""
        return self.target.frontend.minimum_past if self.shape is None else 0

    def parameters(self, graphs: Sequence[bytes]) -> dict[str, Any]:
        """What an unfinished conversion must have in common with the one that goes on with it."""
        plain = {"quantize": str(self.model.quantization or "none"), "shape": str(self.shape) if self.shape else None}
        order = asdict(self.order) | plain
        del order["checkpoint"]
        return {"porter": __version__, **order, "checkpoint": _identity(self.model), "graph": _sha256(b"".join(graphs))}

    def agreement(self) -> dict[str, str]:
        """What machines must have in common that write files of one port."""
        plan = b"".join(file.name.encode() + file.header for file in self.files)
        return {"porter": __version__, "checkpoint": _identity(self.model), "plan": _sha256(plan)}


def work_out(order: Order) -> Work:
    """Understands the checkpoint and plans the files; no weight is read and nothing written.

    Raises CheckpointError, FamilyError or TargetError.
    """
    _refuse_split(order)
    shape = Shape.parse(order.shape) if order.shape else None
    target = find_target(order.target, order.frontend)
    model = understand(order.checkpoint, order.attention, Quantization.parse(order.quantize), order.places)
    dtype, reason = _port_dtype(order, model, target)
    _refuse_overflow(model, dtype)
    phases = _phases(shape, model, target.frontend, order.layout)
    if order.layout.cards > 1:
        models = shared_out(model, order.attention, order.layout)
        ranks = tuple(_rank(one, rank, order, dtype) for rank, one in zip(order.layout.ranks(), models, strict=True))
        files = tuple(file for rank in ranks for file in rank.files)
        return Work(order, target, model, dtype, reason, shape, phases, files, (), ranks)
    pointed, written = _divide(model, dtype) if order.weights == "reference" else ((), model.binding.weights)
    files = plan_files(written, dtype, order.shard_size)
    return Work(order, target, model, dtype, reason, shape, phases, files, tuple(pointed))


def _rank(model: Model, layout: Layout, order: Order, dtype: ir.DataType) -> Rank:
    files = plan_files(model.binding.weights, dtype, order.shard_size, folder_of(layout.rank))
    return Rank(layout, model, files)


def _refuse_split(order: Order) -> None:
    """Raises TargetError for weights that cannot stay where they are: of several cards each has a part."""
    if order.layout.cards > 1 and order.weights == "reference":
        message = "--weights reference does not go with --tp, --ep or --pp"
        raise TargetError(message, "leave it out, or make the port for one card")


def _refuse_overflow(model: Model, dtype: ir.DataType) -> None:
    """Raises FamilyError for activations that are known to leave the dtype's range; weights are seen on their way."""
    beyond = {name: peak for name, peak in model.source.recorded() if peak > largest(dtype.numpy())}
    if beyond:
        names = first_few([f"'{name}'" for name in beyond], 3)
        raise FamilyError(
            f"by {names} activations reached {max(beyond.values()):.3g}, which {dtype.name.lower()} cannot hold",
            "use --dtype bfloat16 or --dtype float32, on a device that takes it",
        )


def _phases(shape: Shape | None, model: Model, frontend: Frontend, layout: Layout) -> tuple[Phase, ...]:
    """The graphs of a port, as the front end takes their sizes; what cards exchange has no gears."""
    if shape is None:
        if not frontend.open_sizes:
            raise TargetError(f"{frontend.name} takes graphs of fixed sizes only", f"give them: {EXAMPLE}")
        return GROWING
    rotation, longest = model.network.model.rotary_emb, shape.contexts[-1]
    if not rotation.unbounded and longest > rotation.rope.positions():
        message = f"--shape: context {longest} is more than the {rotation.rope.positions()} positions of the model"
        raise TargetError(message, "a place of the cache is a position: give a smaller context")
    phases = shape.phases("gears" in frontend.shapes and layout.cards == 1)
    if frontend.gears_limit is not None:
        least, most = frontend.gears_limit
        for phase in phases:
            if phase.gears and not least <= len(phase.gears) <= most:
                asked = f"--shape asks for {len(phase.gears)} gears of {phase.file}"
                message = f"{asked}, {frontend.name} takes {least} to {most}"
                raise TargetError(message, "give fewer lengths")
    return phases


def _divide(model: Model, dtype: ir.DataType) -> tuple[list[Reference], list[Weight]]:
    pointed, written = [], []
    for weight in model.binding.weights:
        found = reference(weight, model.checkpoint.tensors, dtype)
        if found is None:
            written.append(weight)
        else:
            pointed.append(found)
    return pointed, written


def _port_dtype(order: Order, model: Model, target: Target) -> tuple[ir.DataType, str]:
    """The dtype of the port, and why that one. Raises TargetError for one that front end or device does not take."""
    known, card, way = target.dtypes(), target.device, target.frontend
    if not known:
        message = f"{card.name} computes in {', '.join(card.dtypes)}, {way.name} takes {', '.join(way.dtypes)}"
        raise TargetError(message, "no port can be in both: another front end may feed the device")
    chosen, reason = order.dtype, "as asked for"
    if order.dtype == "auto":
        chosen, reason = known[0], f"the most exact that {_takers(target)}"
    if order.dtype == "auto" and order.weights == "reference":
        if own := _own_dtype(model):
            chosen, reason = own, "the checkpoint's own: in any other, nothing could stay where it is"
        if chosen not in known:
            message = f"the checkpoint is in {chosen}, which {_refuser(target, chosen)} does not take"
            hint = f"use --weights copy, or --dtype: {', '.join(known)}"
            raise TargetError(f"{message}, so no weight can stay there", hint)
    if chosen not in known:
        raise TargetError(f"{_refuser(target, chosen)} takes no port in {chosen}", f"known: auto, {', '.join(known)}")
    return DTYPES[chosen], reason


def _takers(target: Target) -> str:
    if not target.device.dtypes or target.name == target.frontend.name:
        return f"{target.frontend.name} takes"
    return f"{target.name} and {target.frontend.name} both take"


def _refuser(target: Target, dtype: str) -> str:
    return target.name if dtype in target.frontend.dtypes else target.frontend.name


def _own_dtype(model: Model) -> str | None:
    stored = model.checkpoint.dtype
    return next((name for name, dtype in DTYPES.items() if SAFETENSORS[dtype] == stored), None)


def _identity(model: Model) -> str:
    """Headers and config by content, shards by size and time of change: reading them all would be the work itself."""
    digest = hashlib.sha256(repr(sorted(model.checkpoint.config.items())).encode())
    for file in model.checkpoint.files:
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    for t in model.checkpoint.tensors.values():
        digest.update(f"{t.name} {t.dtype} {t.shape} {t.file.name} {t.offset}\n".encode())
    return digest.hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
