"""What every quantized form comes down to: integer (or FP8) codes, scales, zero points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from porter.checkpoint import Read
from porter.quantize import Quantization


@dataclass(frozen=True, eq=False)
class Codes:
    """Some rows of a weight as they are stored: weight[r, c] = (values[r, c] - zeros[r, g]) * scales[r, g].

    The group g of column c is c // group, or order[c] where there is an order.
    """

    values: np.ndarray  # [rows, columns] uint8, int8 or float8_e4m3fn
    scales: np.ndarray  # [rows, groups] float32
    zeros: np.ndarray | None  # [rows, groups] small integers; None is all 0
    group: int  # columns that share a scale; the last group may be smaller
    order: np.ndarray | None = None  # [columns]


class Packed(Protocol):
    """A weight of the network that is stored quantized."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns of the weight itself."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The stored tensors that it is made of."""

    @property
    def tile(self) -> int:
        """How many rows, counted from row 0, share what is stored: reads that end between two tiles read it once."""

    @property
    def form(self) -> Quantization | None:
        """How its codes are laid out; None where that is more than a Quantization can say."""

    def codes(self, read: Read, start: int, stop: int) -> Codes:
        """Rows start…stop. Raises FamilyError for numbers that mean nothing."""


@dataclass(frozen=True)
class Quantized:
    """The quantized weights of a checkpoint by their names in the network, and the tensors that are left out."""

    title: str  # what a user calls it: "gptq, 4 bits, groups of 128"
    weights: Mapping[str, Packed] = field(default_factory=dict)
    idle: Mapping[str, str] = field(default_factory=dict)  # stored tensors that no weight needs, and why
    idle_zeros: Mapping[str, str] = field(default_factory=dict)  # the same, where they hold nothing but zeros
    recorded: Mapping[str, float] = field(default_factory=dict)  # scale of activations → the largest code that they had

    def parts(self) -> set[str]:
        """Every stored tensor that is a part of a weight."""
        return {part for weight in self.weights.values() for part in weight.parts}
