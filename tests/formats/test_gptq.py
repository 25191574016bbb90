"""GPTQ: words written out by hand, both conventions of the zero point, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packing import GPTQ, gptq, write

from porter.blocks.module import Parameter
from porter.errors import FamilyError
from porter.formats import decode, format_of
from porter.quantize import Quantization
from porter.source import Source
from porter.weights import bind

FLOAT = np.dtype(np.float32)


def hexes(*rows: list[int]) -> np.ndarray:
    """Words of 32 bits as they are written down."""
    return np.array(rows, np.uint32).view(np.int32)


# Two outputs of eight inputs. Output 0 has the codes 0 1 2 … 7, first in the lowest bits; output 1 has 15 … 8.
BY_HAND = {
    "w.qweight": hexes([0x76543210, 0x89ABCDEF]),
    "w.qzeros": hexes([0x000000_27], [0x000000_70]),  # groups of four inputs: 7 and 2, then 0 and 7; one more is meant
    "w.scales": np.array([[0.5, 1.0], [2.0, 0.25]], np.float16),
    "w.g_idx": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.int32),
}
FOURS = GPTQ | {"group_size": 4}


def read(folder: Path, tensors: dict[str, np.ndarray], quantization: dict[str, Any]) -> np.ndarray:
    checkpoint = write(folder, tensors, quantization)
    packed = format_of(checkpoint).weights["w.weight"]
    return decode(packed.codes(checkpoint.read, 0, packed.shape[0]), FLOAT, "w.weight")


def test_words_written_by_hand(tmp_path: Path) -> None:
    wanted = [
        [0.5 * (q - 8) for q in (0, 1, 2, 3)] + [2.0 * (q - 1) for q in (4, 5, 6, 7)],
        [1.0 * (q - 3) for q in (15, 14, 13, 12)] + [0.25 * (q - 8) for q in (11, 10, 9, 8)],
    ]
    np.testing.assert_array_equal(read(tmp_path, BY_HAND, FOURS), wanted)


def test_the_newer_form_stores_zero_points_as_they_are(tmp_path: Path) -> None:
    wanted = [
        [0.5 * (q - 7) for q in (0, 1, 2, 3)] + [2.0 * q for q in (4, 5, 6, 7)],
        [1.0 * (q - 2) for q in (15, 14, 13, 12)] + [0.25 * (q - 7) for q in (11, 10, 9, 8)],
    ]
    np.testing.assert_array_equal(read(tmp_path, BY_HAND, FOURS | {"checkpoint_format": "gptq_v2"}), wanted)


def test_inputs_of_a_group_need_not_be_neighbours(tmp_path: Path) -> None:
    tensors = BY_HAND | {"w.g_idx": np.array([1, 0, 0, 1, 0, 1, 1, 0], np.int32)}
    scale, zero = [2.0, 0.5, 0.5, 2.0, 0.5, 2.0, 2.0, 0.5], [1, 8, 8, 1, 8, 1, 1, 8]
    wanted = [s * (q - z) for q, s, z in zip(range(8), scale, zero, strict=True)]
    np.testing.assert_array_equal(read(tmp_path, tensors, FOURS | {"desc_act": True})[0], wanted)


def test_eight_bits(tmp_path: Path) -> None:
    tensors = {
        "w.qweight": hexes([0xFF_80_01_00]),
        "w.qzeros": hexes([0x7F]),
        "w.scales": np.array([[0.5]], np.float16),
        "w.g_idx": np.zeros(4, np.int32),
    }
    np.testing.assert_array_equal(
        read(tmp_path, tensors, GPTQ | {"bits": 8, "group_size": -1}), [[-64, -63.5, 0, 63.5]]
    )


def test_the_order_may_be_left_out_where_groups_are_neighbours(tmp_path: Path) -> None:
    without = {name: tensor for name, tensor in BY_HAND.items() if name != "w.g_idx"}
    (tmp_path / "without").mkdir()
    np.testing.assert_array_equal(read(tmp_path / "without", without, FOURS), read(tmp_path, BY_HAND, FOURS))


def test_what_programs_read_differently_is_not_read(tmp_path: Path) -> None:
    """A zero point of 0 less one: 15 in its own four bits for some, borrowed from the next for others."""
    with pytest.raises(FamilyError, match=r"'w.qzeros' holds the zero point 0") as refusal:
        read(tmp_path, BY_HAND | {"w.qzeros": hexes([0xF7], [0x70])}, FOURS)
    assert "gptq_v2" in refusal.value.hint


@pytest.mark.parametrize("group", [-1, 2])
def test_a_group_that_there_is_not_is_refused(tmp_path: Path, group: int) -> None:
    order = np.array([0, 0, 0, 0, 1, 1, 1, group], np.int32)
    with pytest.raises(FamilyError, match=r"'w.g_idx' names a group beyond the 2"):
        read(tmp_path, BY_HAND | {"w.g_idx": order}, FOURS)


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 3},
        {"bits": 4.0},
        {"bits": None},
        {"group_size": 0},
        {"group_size": "4"},
        {"checkpoint_format": "marlin"},
        {"format": "bitblas"},
        {"pack_dtype": "int64"},
        {"is_marlin_format": True},
        {"desc_act": 1},
        {"dynamic": {"+:.*down.*": {"bits": 8}}},
    ],
)
def test_other_forms_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(FamilyError, match="quantization_config") as refusal:
        read(tmp_path, BY_HAND, FOURS | change)
    assert refusal.value.hint


def test_modules_may_be_left_out(tmp_path: Path) -> None:
    given = FOURS | {"dynamic": {"-:.*lm_head.*": {}}}
    assert read(tmp_path, BY_HAND, given).shape == (2, 8)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_bias_of_zeros_that_no_network_has_is_dropped(tmp_path: Path, value: float) -> None:
    """AutoGPTQ writes one for every layer; one that holds anything is somebody's."""
    source = Source(write(tmp_path, BY_HAND | {"w.bias": np.full(2, value, np.float16)}, FOURS))
    wanted = [Parameter((2, 8), name="w.weight")]
    if value:
        with pytest.raises(FamilyError, match=r"'w.bias', which nothing in this architecture reads"):
            bind(wanted, (), (), source)
    else:
        assert list(bind(wanted, (), (), source).dropped) == ["w.bias"]


def test_symmetric_codes_have_their_zero_point_in_the_middle(tmp_path: Path) -> None:
    stored, _ = gptq(np.random.default_rng(0).standard_normal((16, 24)).astype(np.float32))
    checkpoint = write(tmp_path, {f"w.{end}": array for end, array in stored.items()}, GPTQ)
    packed = format_of(checkpoint).weights["w.weight"]
    assert packed.form == Quantization(4, 8, symmetric=True)
    zeros = packed.codes(checkpoint.read, 3, 9).zeros
    assert zeros is not None
    assert set(zeros.ravel()) == {8}
