"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864): frequencies, and the tables that hold their angles.

Frequencies and tables are computed in float64 and rounded once, to the port's dtype. The graph gathers rows by
position: no Sin and no Cos in it, which some front ends do not have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from porter.blocks.module import Module, Parameter
from porter.blocks.step import Step


@dataclass(frozen=True)
class Rope:
    """Plain RoPE over `dim` features: frequency i is theta^(-2i / dim)."""

    dim: int
    theta: float
    max_positions: int

    def inverse_frequencies(self) -> np.ndarray:
        """Radians per position, float64 [dim / 2]."""
        return np.asarray(self.theta ** -(np.arange(0, self.dim, 2, dtype=np.float64) / self.dim))

    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by."""
        return 1.0

    def positions(self) -> int:
        """How many positions the tables hold: scaled models are often published with max_positions not raised."""
        return self.max_positions

    def boundaries(self) -> tuple[int, ...]:
        """The positions at which the rotation changes its rule, or ends."""
        return (self.max_positions,)

    def module(self) -> RotaryTables | DynamicRotation:
        """The part of a graph that turns position_ids into this rotation."""
        return RotaryTables(self)


@dataclass(frozen=True)
class LinearRope(Rope):
    """Positions divided by `factor`."""

    factor: float

    def positions(self) -> int:
        return math.ceil(max(1.0, self.factor) * self.max_positions)

    def inverse_frequencies(self) -> np.ndarray:
        return super().inverse_frequencies() / self.factor


@dataclass(frozen=True)
class Llama3Rope(Rope):
    """Llama 3.1: long waves slowed by `factor`, short ones kept, a smooth passage between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int

    def boundaries(self) -> tuple[int, ...]:
        return (self.original_max_positions, self.max_positions)

    def inverse_frequencies(self) -> np.ndarray:
        plain = super().inverse_frequencies()
        turns = self.original_max_positions * plain / (2 * math.pi)  # full turns within the trained length
        smooth = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0.0, 1.0)
        return np.asarray((1 - smooth) * plain / self.factor + smooth * plain)


@dataclass(frozen=True)
class YarnRope(Rope):
    """YaRN (Peng et al. 2023, arXiv:2309.00071), DeepSeek's mscale and mscale_all_dim as transformers reads them."""

    factor: float
    original_max_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    explicit_attention_factor: float | None = None
    truncate: bool = True

    def positions(self) -> int:
        return max(self.max_positions, math.ceil(self.factor * self.original_max_positions))

    def boundaries(self) -> tuple[int, ...]:
        return (self.original_max_positions, self.max_positions)

    def inverse_frequencies(self) -> np.ndarray:
        plain = super().inverse_frequencies()
        low, high = self._turning_dim(self.beta_fast), self._turning_dim(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dim - 1)
        high = high if high != low else high + 0.001
        interpolated = np.clip((np.arange(self.dim // 2) - low) / (high - low), 0.0, 1.0)
        return np.asarray(plain / self.factor * interpolated + plain * (1 - interpolated))

    def _turning_dim(self, turns: float) -> float:
        """The feature whose wave makes `turns` turns within the trained length."""
        return self.dim * math.log(self.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

    def attention_factor(self) -> float:
        if self.explicit_attention_factor is not None:
            return self.explicit_attention_factor
        if self.mscale and self.mscale_all_dim:
            return yarn_mscale(self.factor, self.mscale) / yarn_mscale(self.factor, self.mscale_all_dim)
        return yarn_mscale(self.factor, 1.0)


@dataclass(frozen=True)
class DynamicRope(Rope):
    """Dynamic NTK: past `max_positions` the base grows with the longest position of the call."""

    factor: float

    def module(self) -> DynamicRotation:
        return DynamicRotation(self)


def yarn_mscale(factor: float, mscale: float) -> float:
    """YaRN's temperature: 0.1 * mscale * ln(factor) + 1."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of this call's positions, [batch, 1, sequence, dim / 2] each."""

    cos: ir.Value
    sin: ir.Value


class RotaryTables(Module):
    """Gathers rows of [positions, dim / 2] tables by position."""

    unbounded = False

    def __init__(self, rope: Rope) -> None:
        self.rope = rope
        shape = (rope.positions(), rope.dim // 2)
        self.cos = Parameter(shape, table=partial(_table, rope, np.cos))
        self.sin = Parameter(shape, table=partial(_table, rope, np.sin))

    def forward(self, step: Step) -> Rotation:
        op, axis = step.graph.op, step.graph.ints(1)
        rows = [op.Gather(t.value(step.graph, step.dtype), step.position_ids, axis=0) for t in (self.cos, self.sin)]
        cos, sin = (op.Unsqueeze(r, axis) for r in rows)  # [batch, sequence, R/2] → [batch, 1, sequence, R/2]
        return _named(self, Rotation(cos, sin))


def _table(rope: Rope, wave: np.ufunc) -> np.ndarray:
    angles = np.arange(rope.positions(), dtype=np.float64)[:, None] * rope.inverse_frequencies()
    return np.asarray(wave(angles) * rope.attention_factor())


TURN = (6.28125, 254 / 2**17, 2 * math.pi - 6.28125 - 254 / 2**17)  # 2π: two parts of 8 bits, and the rest


class DynamicRotation(Module):
    """Angles that depend on the longest position of the call, so no table can hold them.

    With s = 1 + factor * max(0, length / max_positions - 1), frequency i becomes plain_i * s^(-2i / (dim - 2)).
    Whole turns are taken off part by part (Cody and Waite 1980), so that float32 loses nothing up to 400,000 rad. Sine
    and cosine are polynomials of the half angle: within 2e-7, and spelled in operators that every front end has.
    """

    unbounded = True

    def __init__(self, rope: DynamicRope) -> None:
        self.rope = rope

    def forward(self, step: Step) -> Rotation:
        graph, op, rope = step.graph, step.graph.op, self.rope
        longest = op.Cast(op.ReduceMax(step.position_ids, keepdims=0), to=ir.DataType.FLOAT)
        beyond = op.Max(op.Sub(longest, _f32(step, rope.max_positions - 1)), _f32(step, 0.0))
        stretch = op.Add(op.Mul(beyond, _f32(step, rope.factor / rope.max_positions)), _f32(step, 1.0))  # scalar
        exponents = -np.arange(0, rope.dim, 2) / (rope.dim - 2)
        frequencies = op.Mul(
            _f32(step, rope.inverse_frequencies()), op.Pow(stretch, _f32(step, exponents))
        )  # [dim / 2]
        position = op.Cast(op.Unsqueeze(step.position_ids, graph.ints(1, 3)), to=ir.DataType.FLOAT)
        angle = op.Mul(position, frequencies)  # [batch, 1, sequence, dim / 2]
        turns = op.Floor(op.Add(op.Mul(angle, _f32(step, 0.5 / math.pi)), _f32(step, 0.5)))
        for part in TURN:
            angle = op.Sub(angle, op.Mul(turns, _f32(step, part)))  # at last within half a turn of zero
        half = op.Mul(angle, _f32(step, 0.5))
        square = op.Mul(half, half)
        sin_half = op.Mul(half, _polynomial(step, square, [(-1) ** k / math.factorial(2 * k + 1) for k in range(8)]))
        cos_half = _polynomial(step, square, [(-1) ** k / math.factorial(2 * k) for k in range(9)])
        two = _f32(step, 2.0)
        sin = op.Mul(two, op.Mul(sin_half, cos_half))
        cos = op.Sub(_f32(step, 1.0), op.Mul(two, op.Mul(sin_half, sin_half)))
        if step.dtype != ir.DataType.FLOAT:
            sin, cos = op.Cast(sin, to=step.dtype), op.Cast(cos, to=step.dtype)
        return _named(self, Rotation(cos, sin))


def _named(module: Module, rotation: Rotation) -> Rotation:
    """Watched by porter verify."""
    rotation.cos.name, rotation.sin.name = f"{module.path}.cosines", f"{module.path}.sines"
    return rotation


def _f32(step: Step, value: object) -> ir.Value:
    return step.graph.constant(value, ir.DataType.FLOAT)


def _polynomial(step: Step, x: ir.Value, coefficients: list[float]) -> ir.Value:
    """Horner's rule, lowest power first."""
    op, result = step.graph.op, _f32(step, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = op.Add(op.Mul(result, x), _f32(step, coefficient))
    return result
