"""What was asked for, and all that follows from it before a weight is read: the same wherever it is worked out."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from porter import __version__
from porter.errors import TargetError
from porter.model import Model, understand
from porter.package.plan import DTYPES, SAFETENSORS, SHARD_BYTES, PlannedFile, plan_files
from porter.package.reference import Reference, reference
from porter.quantize import Quantization
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


@dataclass(frozen=True)
class Work:
    """An order worked out: the checkpoint understood, and where every weight will lie."""

    order: Order
    target: Target
    model: Model
    dtype: ir.DataType
    files: tuple[PlannedFile, ...]
    references: tuple[Reference, ...]

    @property
    def new_bytes(self) -> int:
        """Bytes of weights that will be written."""
        return sum(file.size() for file in self.files)

    def shards(self) -> tuple[Path, ...]:
        """The checkpoint's files that the graph points into."""
        return tuple(sorted({r.file for r in self.references}))

    def parameters(self, graph: bytes) -> dict[str, Any]:
        """What an unfinished conversion must have in common with the one that goes on with it."""
        order = asdict(replace(self.order, checkpoint=Path(), quantize=str(self.model.quantization or "none")))
        del order["checkpoint"]
        return {"porter": __version__, **order, "checkpoint": _identity(self.model), "graph": _sha256(graph)}

    def agreement(self) -> dict[str, str]:
        """What machines must have in common that write files of one port."""
        plan = b"".join(file.name.encode() + file.header for file in self.files)
        return {"porter": __version__, "checkpoint": _identity(self.model), "plan": _sha256(plan)}


def work_out(order: Order) -> Work:
    """Understands the checkpoint and plans the files; no weight is read and nothing written.

    Raises CheckpointError, FamilyError or TargetError.
    """
    target = find_target(order.target, order.frontend)
    model = understand(order.checkpoint, order.attention, Quantization.parse(order.quantize))
    dtype = _port_dtype(order, model, target.frontend)
    pointed, written = _divide(model, dtype) if order.weights == "reference" else ((), model.binding.weights)
    return Work(order, target, model, dtype, plan_files(written, dtype, order.shard_size), tuple(pointed))


def _divide(model: Model, dtype: ir.DataType) -> tuple[list[Reference], list[Weight]]:
    pointed, written = [], []
    for weight in model.binding.weights:
        found = reference(weight, model.checkpoint.tensors, dtype)
        if found is None:
            written.append(weight)
        else:
            pointed.append(found)
    return pointed, written


def _port_dtype(order: Order, model: Model, frontend: Frontend) -> ir.DataType:
    chosen: str = frontend.dtypes[0] if order.dtype == "auto" else order.dtype
    if order.dtype == "auto" and order.weights == "reference":
        chosen = _own_dtype(model) or chosen  # in any other, nothing could stay where it is
        if chosen not in frontend.dtypes:
            message = f"the checkpoint is in {chosen}, which {frontend.name} does not take, so no weight can stay there"
            raise TargetError(message, f"use --weights copy, or --dtype: {', '.join(frontend.dtypes)}")
    if chosen not in frontend.dtypes:
        raise TargetError(f"{frontend.name} takes no port in {chosen}", f"known: auto, {', '.join(frontend.dtypes)}")
    return DTYPES[chosen]


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
