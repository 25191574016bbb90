"""The weights that a quantized port means, decoded from its own codes, under the checkpoint's names.

With them in its place, the original is what the port must compute to the last bit of float32; what the quantization
costs is another question. Read and decoded without porter's own code for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from porter.errors import ParityError
from porter.manifest import Port
from porter.model import Model
from porter.package.files import CHECKPOINT
from porter.verify.cards import cards_of
from porter.verify.report import Check
from porter.verify.stored import Tensors
from porter.weights import Piece, Weight

TINY = 2.0**-149  # where a block is all zeros, its scale may be zero, too
HALF_A_STEP = 0.5 + 2.0**-14  # codes reach 127, and dividing and multiplying by the scale rounds in float32


@dataclass(frozen=True)
class Decoded:
    """A quantized weight: its numbers, and the step between two codes at each of them, float32 [..., K]."""

    numbers: torch.Tensor
    steps: torch.Tensor


def own_weights(port: Port, model: Model, wanted: Callable[[str], bool] = lambda name: True) -> Tensors:
    """The checkpoint's tensors that are stored as codes, float32, as the codes and scales in the port's files say:
    those whose names are wanted.

    Empty for a port without any. Raises ParityError where they cannot be read.
    """
    found: Tensors = {}
    for piece, part in _by_source(port, model, wanted):
        if part.numbers.shape == piece.shape:
            found[piece.source] = part.numbers
        else:  # several weights are made of it: what none of them holds is no number
            found.setdefault(piece.source, torch.full(piece.shape, math.nan))[_place(piece)] = part.numbers
    return found


def check_codes(port: Port, model: Model, tensors: Mapping[str, torch.Tensor]) -> Check:
    """Whether every code is the nearest there is: no number of the port is more than half a step off the checkpoint's.

    `tensors` are the checkpoint's, by name. Raises ParityError where the port's cannot be read.
    """
    worst, where = 0.0, ""
    for piece, part in _by_source(port, model, lambda name: True):
        name, numbers = piece.source, tensors[piece.source][_place(piece)].double()
        off = (part.numbers.double() - numbers).abs() / part.steps.double().abs().clamp(min=TINY)
        largest = float(off.nan_to_num(nan=math.inf).max())
        if largest > worst:
            worst, where = largest, name
    return Check.at_most("steps from a number to its code", worst, HALF_A_STEP, where and f"worst in {where}")


def _by_source(port: Port, model: Model, wanted: Callable[[str], bool]) -> Iterator[tuple[Piece, Decoded]]:
    """Each source tensor, or a part of one, of a quantized weight: what a card has goes back to where it came from."""
    for card, its in cards_of(port, model):
        files = _files(card)
        for weight in its.binding.weights:
            if weight.parameter.quantization is None or not any(wanted(piece.source) for piece in weight.pieces):
                continue
            whole, at = _decode(weight, files), 0
            columns = weight.parameter.shape[-1]
            numbers, steps = whole.numbers.reshape(-1, columns), whole.steps.reshape(-1, columns)
            for piece in weight.pieces:
                rows = slice(at, at + piece.size // columns)
                at = rows.stop
                if wanted(piece.source):
                    shape = torch.empty(piece.shape, device="meta")[_place(piece)].shape
                    yield piece, Decoded(numbers[rows].reshape(shape), steps[rows].reshape(shape))


def _place(piece: Piece) -> tuple[slice, ...]:
    """Where it lies in its source."""
    return slice(*piece.rows), *(slice(*span) for span in piece.inner or ())


def _files(port: Port) -> dict[str, Path]:
    """Which of the port's own files holds which tensor; a shard of the checkpoint has tensors of the same names."""
    found: dict[str, Path] = {}
    for entry in (e for e in port.manifest["weights"] if e.get("of") != CHECKPOINT):
        with _opened(port.folder / entry["file"]) as file:
            found |= dict.fromkeys(file.keys(), port.folder / entry["file"])
    return found


def _decode(weight: Weight, files: Mapping[str, Path]) -> Decoded:
    form, name, shape = weight.parameter.quantization, weight.parameter.name, weight.parameter.shape
    assert form is not None
    codes, scale = (_read(files, name + suffix) for suffix in ("", "_scale"))
    if form.bits == 8:
        steps = scale.unsqueeze(-1).expand(shape)
        return Decoded(codes.float() * steps, steps)
    pairs = torch.stack([codes.bitwise_and(15), codes.bitwise_right_shift(4)], dim=-1)
    zero = torch.full_like(scale, 8) if form.symmetric else _read(files, name + "_zero_point").float()
    spread = [t.repeat_interleave(shape[-1] // t.shape[-1], dim=-1) for t in (zero, scale)]
    return Decoded((pairs.reshape(shape).float() - spread[0]) * spread[1], spread[1])


def _read(files: Mapping[str, Path], name: str) -> torch.Tensor:
    if name not in files:
        raise ParityError(f"no file of the port holds '{name}'", "convert the checkpoint again")
    with _opened(files[name]) as file:
        tensor: torch.Tensor = file.get_tensor(name)
        return tensor


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as cause:
        raise ParityError(f"{path.name} cannot be read: {cause}", "convert the checkpoint again") from cause
