"""Rotations of two kinds in one model: another one for long texts, or for layers within a window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from porter.blocks.module import Module, Parameter
from porter.blocks.rope import Rope, RotaryTables, Rotation
from porter.blocks.step import Step


@dataclass(frozen=True)
class LongRope(Rope):
    """LongRoPE (Ding et al. 2024, arXiv:2402.13753): frequency i divided by `short[i]`, or by `long[i]` in all of a
    call that has a position at or past `original_max_positions`.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_max_positions: int
    factor: float
    explicit_attention_factor: float | None = None

    def positions(self) -> int:
        return max(self.max_positions, self.original_max_positions)

    def boundaries(self) -> tuple[int, ...]:
        return (self.original_max_positions, self.max_positions)

    def inverse_frequencies(self) -> np.ndarray:
        return self.divided(self.long)

    def divided(self, factors: Sequence[float]) -> np.ndarray:
        """The plain frequencies, each divided by its factor."""
        return super().inverse_frequencies() / np.asarray(factors, dtype=np.float64)

    def attention_factor(self) -> float:
        if self.explicit_attention_factor is not None:
            return self.explicit_attention_factor
        if self.factor <= 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_positions))

    def module(self) -> LongRotation:
        return LongRotation(self)


class LongRotation(RotaryTables):
    """One table for both: the rows of short calls first, those of long ones behind them."""

    def __init__(self, rope: LongRope) -> None:
        self.rope = rope
        self.short_rows = rope.original_max_positions
        shape = (self.short_rows + rope.positions(), rope.dim // 2)
        self.cos = Parameter(shape, table=partial(_both, rope, np.cos))
        self.sin = Parameter(shape, table=partial(_both, rope, np.sin))

    def rows(self, step: Step) -> ir.Value:
        graph, op = step.graph, step.graph.op
        longest = op.ReduceMax(step.position_ids, keepdims=0)
        long = op.GreaterOrEqual(longest, graph.constant(self.short_rows, ir.DataType.INT64))
        first = [graph.constant(n, ir.DataType.INT64) for n in (self.short_rows, 0)]
        return op.Add(step.position_ids, op.Where(long, *first))


def _both(rope: LongRope, wave: np.ufunc) -> np.ndarray:
    counts = (rope.original_max_positions, rope.positions())
    angles = [np.arange(n)[:, None] * rope.divided(f) for n, f in zip(counts, (rope.short, rope.long), strict=True)]
    return np.asarray(wave(np.concatenate(angles)) * rope.attention_factor())


@dataclass(frozen=True)
class LocalRope(Rope):
    """The rotation `whole` of layers that see everything, and `local` of those within a window (Gemma 3)."""

    whole: Rope
    local: Rope

    def positions(self) -> int:
        return min(self.whole.positions(), self.local.positions())

    def boundaries(self) -> tuple[int, ...]:
        return tuple(sorted({*self.whole.boundaries(), *self.local.boundaries()}))

    def module(self) -> LocalRotations:
        return LocalRotations(self)


@dataclass(frozen=True)
class LocalRotation(Rotation):
    """A rotation, and beside it the one of layers within a window."""

    local: Rotation


class LocalRotations(Module):
    """Both rotations of a LocalRope."""

    unbounded = False

    def __init__(self, rope: LocalRope) -> None:
        self.rope = rope
        self.whole, self.local = rope.whole.module(), rope.local.module()

    def forward(self, step: Step) -> LocalRotation:
        whole, local = self.whole(step), self.local(step)
        return LocalRotation(whole.cos, whole.sin, whole.dim, local)
