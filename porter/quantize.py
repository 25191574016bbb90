"""Weights as small integers: the forms that `--quantize` knows, what is stored of each, and how the codes are made.

    number = (code - zero point) * scale, the product in float32

int8: one scale for each output channel, codes -127…127, no zero point. int4: one scale for each block of 32, 64 or 128
numbers along the input dimension, codes 0…15, two to a byte with the earlier one in the low half; symmetric with the
zero point 8, which is not stored, or asymmetric with one of each block's own. Activations stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from porter.errors import FamilyError, TargetError

SCALE, ZERO_POINT = "_scale", "_zero_point"
ASYMMETRIC, DEFAULT_BLOCK = ":asymmetric", 128
ZERO = 8  # of symmetric int4
HELD_NUMBERS = 2**16  # encoded at once: they and what becomes of them stay in a core's cache
SMALLEST = np.float32(2.0**-126)  # a scale below it would lose digits, or be zero on a device that flushes

Stored = tuple[tuple[str, ir.DataType, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Quantization:
    """A form of weights: `block` numbers of a row share a scale, or the whole row where it is None."""

    bits: int
    block: int | None
    symmetric: bool

    @classmethod
    def parse(cls, text: str) -> Quantization | None:
        """What `--quantize` asks for; None for `none`. Raises TargetError for what is no form."""
        if text == "none":
            return None
        plain = text.removesuffix(ASYMMETRIC)
        spelled = text.replace(plain, f"{plain}:{DEFAULT_BLOCK}") if plain == "int4" else text
        if spelled not in FORMS:
            raise TargetError(f"no quantization is called '{text}'", KNOWN)
        return FORMS[spelled]

    def __str__(self) -> str:
        """The same, each form in one spelling."""
        if self.block is None:
            return f"int{self.bits}"
        return f"int{self.bits}:{self.block}" + ("" if self.symmetric else ASYMMETRIC)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether every row is made of whole blocks."""
        return self.block is None or shape[-1] % self.block == 0

    def tensors(self, name: str, shape: tuple[int, ...]) -> Stored:
        """Name, type and shape of what is stored of a weight [..., K]: codes, scales, and zero points if it has any."""
        rows, columns = shape[:-1], shape[-1]
        if self.block is None:
            return (name, ir.DataType.INT8, shape), (name + SCALE, ir.DataType.FLOAT, rows)
        blocks = (*rows, columns // self.block)
        packed = (name, ir.DataType.UINT8, (*rows, columns // 2)), (name + SCALE, ir.DataType.FLOAT, blocks)
        return packed if self.symmetric else (*packed, (name + ZERO_POINT, ir.DataType.UINT8, blocks))

    def encode(self, rows: np.ndarray, name: str) -> tuple[np.ndarray, ...]:
        """The arrays of `tensors` for whole rows [..., K] in float32; `name` is the tensor's, for the error.

        A number is at most half a scale away from what its code means. Raises FamilyError where one is not finite.
        """
        stored = tuple(np.empty(shape, dtype.numpy()) for _, dtype, shape in self.tensors(name, rows.shape))
        together = self.block or rows.shape[-1]
        blocks, (codes, scales, *zero_points) = rows.reshape(-1, together), (part.reshape(-1) for part in stored)
        step = max(1, HELD_NUMBERS // together)
        for start in range(0, len(blocks), step):
            part = blocks[start : start + step]
            with np.errstate(over="ignore", invalid="ignore"):
                found, scale, zero_point = self._encode(part)
            if not np.isfinite(scale).all():
                raise FamilyError(
                    f"tensor '{name}' holds what is not finite or too large, and no code means that",
                    "use --quantize none; in a sound checkpoint there is no such weight",
                )
            at = slice(start, start + len(part))
            scales[at] = scale
            for target in zero_points:
                target[at] = zero_point
            size = codes.size // len(blocks)
            codes[start * size : start * size + found.size] = found
        return stored

    def keep(self, values: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None) -> tuple[np.ndarray, ...] | None:
        """The arrays of `tensors` for rows that are codes of this form already, so that nothing is rounded twice.

        `values` [..., K] are uint8 or int8, `scales` and `zeros` (None is all 0) [..., blocks]. None where a number is
        farther from its zero point than this form reaches.
        """
        if not self.symmetric:
            assert zeros is not None
            shift = np.uint8(ZERO if values.dtype == np.int8 else 0)
            return self._shaped(values.shape, _packed((values + shift).astype(np.uint8)), scales, zeros + shift)
        middle = 0 if self.bits == 8 else ZERO
        codes = values.astype(np.int16) + middle
        if zeros is not None:
            codes -= np.repeat(zeros.astype(np.int16), values.shape[-1] // zeros.shape[-1], axis=-1)
        least = middle - 2 ** (self.bits - 1)
        if codes.size and (codes.min() < least or codes.max() >= least + 2**self.bits):
            return None
        stored = codes.astype(np.int8) if self.bits == 8 else _packed(codes.astype(np.uint8))
        return self._shaped(values.shape, stored, scales)

    def _shaped(self, shape: tuple[int, ...], *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """The arrays as `tensors` has them for rows of this shape."""
        stored = self.tensors("", shape)
        return tuple(a.astype(d.numpy(), copy=False).reshape(s) for a, (_, d, s) in zip(arrays, stored, strict=True))

    def _encode(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes as they are stored, scales and zero points of blocks [n, together]."""
        low, high = _extremes(blocks)
        if self.block is None:
            scale = _scale(np.maximum(high, -low) / np.float32(127))
            codes = blocks / scale[:, None]
            return np.rint(codes, out=codes).astype(np.int8).reshape(-1), scale, np.zeros_like(scale)
        if self.symmetric:
            # Sixteen codes span fifteen steps, 7.5 to either side: the largest number is half a step off its code, as
            # any other may be, and all steps are smaller for it.
            scale = _scale(np.maximum(high, -low) / np.float32(7.5))
            zero_point = np.full_like(scale, ZERO)
        else:
            low, high = np.minimum(low, 0), np.maximum(high, 0)
            scale = _scale((high - low) / np.float32(15))
            zero_point = np.rint(-low / scale)
        codes = blocks / scale[:, None]
        np.rint(codes, out=codes)
        codes += zero_point[:, None]
        np.clip(codes, 0, 15, out=codes)
        return _packed(codes.astype(np.uint8)), scale, zero_point


FORMS = {
    str(form): form
    for form in (
        Quantization(8, None, symmetric=True),
        *(Quantization(4, block, symmetric) for block in (32, 64, 128) for symmetric in (True, False)),
    )
}
KNOWN = f"known: none, {', '.join(FORMS)}; int4 alone has blocks of {DEFAULT_BLOCK}"


def _extremes(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest of each block; short ones are laid side by side, which is twice as fast."""
    if len(blocks) < blocks.shape[1]:
        return blocks.min(axis=1), blocks.max(axis=1)
    columns = np.ascontiguousarray(blocks.T)
    return columns.min(axis=0), columns.max(axis=0)


def _scale(scale: np.ndarray) -> np.ndarray:
    """Nothing to tell apart: any scale will do, and every code is the zero point."""
    scale[scale < SMALLEST] = 1
    return scale


def _packed(codes: np.ndarray) -> np.ndarray:
    """Two codes to a byte: uint8 [n, together], together even → uint8 [n * together / 2]."""
    pairs = codes.reshape(-1).view("<u2")  # the earlier code is the low byte
    return (pairs | pairs >> 4).astype(np.uint8)
