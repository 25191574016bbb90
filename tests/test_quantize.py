"""What the forms of `--quantize` are called, what is stored of a weight, and which codes stand for which numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from porter import quantize
from porter.errors import FamilyError, TargetError
from porter.quantize import FORMS, Quantization

HALF = 0.5 + 2.0**-14  # a step; what is more is the rounding of float32


def form(text: str) -> Quantization:
    found = Quantization.parse(text)
    assert found is not None
    return found


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Rows of different sizes, as trained weights have."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * rng.lognormal(0, 2, (*shape[:-1], 1))).astype(np.float32)


def meant(text: str, parts: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """What codes mean, in float64 and written down once more; and the step at each number."""
    codes, scale, *zero = parts
    if form(text).bits == 8:
        wide, zeros = codes.astype(np.float64), np.zeros_like(scale)
    else:
        wide = np.stack([codes % 16, codes // 16], axis=-1).astype(np.float64)
        zeros = zero[0].astype(np.float64) if zero else np.full_like(scale, 8)
    steps = np.repeat(scale.reshape(-1).astype(np.float64), np.prod(shape) // scale.size).reshape(shape)
    offsets = np.repeat(zeros.reshape(-1), np.prod(shape) // scale.size).reshape(shape)
    return (wide.reshape(shape) - offsets) * steps, steps


# ------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("text", "bits", "block", "symmetric"),
    [
        ("int8", 8, None, True),
        ("int4", 4, 128, True),
        ("int4:32", 4, 32, True),
        ("int4:64:asymmetric", 4, 64, False),
        ("int4:asymmetric", 4, 128, False),
    ],
)
def test_a_form_is_called_by_bits_block_and_symmetry(text: str, bits: int, block: int | None, symmetric: bool) -> None:
    assert form(text) == Quantization(bits, block, symmetric)


def test_every_form_has_one_spelling_in_the_end() -> None:
    assert all(str(form(text)) == text for text in FORMS)
    assert (str(form("int4")), str(form("int4:asymmetric"))) == ("int4:128", "int4:128:asymmetric")


def test_none_is_no_form() -> None:
    assert Quantization.parse("none") is None


@pytest.mark.parametrize(
    "text", ["", "int3", "int4:16", "int4:", "int8:32", "int8:asymmetric", "INT8", "int4:32:symmetric", ":asymmetric"]
)
def test_what_is_no_form_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(TargetError) as refusal:
        Quantization.parse(text)
    assert f"'{text}'" in refusal.value.message
    assert "int4:64:asymmetric" in refusal.value.hint


# ------------------------------------------------------------------------------ codes


def test_int8_by_hand() -> None:
    rows = np.array([[127, -3.4, 0.5, 1.5], [-2.54, 1.27, 0.02, 0], [0, 0, 0, 0]], np.float32)
    codes, scale = form("int8").encode(rows, "w")
    assert codes.tolist() == [[127, -3, 0, 2], [-127, 64, 1, 0], [0, 0, 0, 0]]  # halves go to the even code
    np.testing.assert_allclose(scale, [1, 0.02, 1])


def test_symmetric_int4_by_hand() -> None:
    """Fifteen steps reach from -7.5 to 7.5; the two ends are half a step off, whichever is the larger."""
    block = np.zeros((1, 32), np.float32)
    block[0, :5] = [7.5, -7.5, 1, -1.6, 6.4]
    codes, scale = form("int4:32").encode(block, "w")
    assert codes.shape == (1, 16)
    assert codes[0, :3].tolist() == [15 + 16 * 0, 9 + 16 * 6, 14 + 16 * 8]
    assert set(codes[0, 3:].tolist()) == {8 + 16 * 8}
    assert scale.tolist() == [[1.0]]


def test_asymmetric_int4_by_hand() -> None:
    block = np.full((1, 64), 2, np.float32)
    block[0, 32:36] = [-1, 14, 0, 3]
    block[0, 36:] = 14
    codes, scale, zero = form("int4:32:asymmetric").encode(block, "w")
    assert zero.tolist() == [[0, 1]]  # the first block is all above zero, which has its code too
    np.testing.assert_allclose(scale, [[2 / 15, 1]])
    assert set(codes[0, :16].tolist()) == {15 + 16 * 15}
    assert codes[0, 16:18].tolist() == [0 + 16 * 15, 1 + 16 * 4]


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("shape", [(5, 128), (3, 4, 256), (1, 384)])
def test_no_number_is_more_than_half_a_step_off(text: str, shape: tuple[int, ...]) -> None:
    rows = numbers(*shape)
    got, steps = meant(text, form(text).encode(rows, "w"), shape)
    assert (np.abs(got - rows) / steps).max() <= HALF


@pytest.mark.parametrize("text", FORMS)
def test_what_is_stored_has_the_types_and_shapes_that_were_promised(text: str) -> None:
    stored = form(text).encode(numbers(3, 4, 256), "w")
    promised = form(text).tensors("w", (3, 4, 256))
    assert [(ir.DataType.from_numpy(a.dtype), a.shape) for a in stored] == [(d, s) for _, d, s in promised]
    assert [name for name, _, _ in promised] == ["w", "w_scale", "w_zero_point"][: len(stored)]


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("held", [1, 128, 1000])
def test_codes_are_the_same_in_small_parts(text: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = numbers(37, 256)
    whole = form(text).encode(rows, "w")
    monkeypatch.setattr(quantize, "HELD_NUMBERS", held)
    apart = form(text).encode(rows, "w")
    assert all(np.array_equal(a, b) for a, b in zip(whole, apart, strict=True))


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 2.0**-126, 3e38])
def test_the_smallest_and_the_largest_have_codes(text: str, size: float) -> None:
    rows = np.full((2, 128), size, np.float32)
    rows[:, ::3] *= -0.1
    codes, scale, *_ = parts = form(text).encode(rows, "w")
    got, steps = meant(text, parts, rows.shape)
    assert np.isfinite(scale).all()
    assert (scale >= 2.0**-126).all()  # what a device that flushes to zero keeps
    assert (np.abs(got - rows) / steps).max() <= HALF
    assert form(text).bits == 4 or np.abs(codes.astype(int)).max() <= 127


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name(text: str, value: float) -> None:
    rows = numbers(9, 128)
    rows[7, 77] = value
    with pytest.raises(FamilyError, match=r"'model\.w' holds what is not finite") as refusal:
        form(text).encode(rows, "model.w")
    assert "--quantize none" in refusal.value.hint


@pytest.mark.parametrize(("text", "width", "fits"), [("int8", 7, True), ("int4:32", 96, True), ("int4:64", 96, False)])
def test_a_form_fits_rows_of_whole_blocks(text: str, width: int, fits: bool) -> None:
    assert form(text).fits((4, width)) == fits
