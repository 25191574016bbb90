"""compressed-tensors: words written out by hand, groups and patterns of its config, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from packing import compressed, config_group, write

from porter.errors import FamilyError
from porter.formats import decode, format_of
from porter.quantize import Quantization
from porter.source import Source

FLOAT = np.dtype(np.float32)
FOURS = {"strategy": "group", "group_size": 4, "num_bits": 4}
PACKED, ROWS = compressed("pack-quantized", **FOURS), compressed("int-quantized", num_bits=8, strategy="channel")


def read(folder: Path, tensors: dict[str, np.ndarray], quantization: dict[str, Any]) -> np.ndarray:
    checkpoint = write(folder, tensors, quantization)
    packed = format_of(checkpoint).weights["w.weight"]
    return decode(packed.codes(checkpoint.read, 0, packed.shape[0]), FLOAT, "w.weight")


# One row of eight: 0 … 7 as it is written, and 8 less is meant.
BY_HAND = {
    "w.weight_packed": np.array([[0x76543210]], np.int32),
    "w.weight_shape": np.array([1, 8], np.int64),
    "w.weight_scale": np.array([[0.5, 2.0]], ml_dtypes.bfloat16),
}
INT8 = {
    "w.weight": np.array([[-128, 0, 127], [1, 2, 3]], np.int8),
    "w.weight_scale": np.array([[0.5], [0.25]], ml_dtypes.bfloat16),
}


def test_packed_words_written_by_hand(tmp_path: Path) -> None:
    wanted = [[0.5 * (q - 8) for q in (0, 1, 2, 3)] + [2.0 * (q - 8) for q in (4, 5, 6, 7)]]
    np.testing.assert_array_equal(read(tmp_path, BY_HAND, PACKED), wanted)


def test_packed_zero_points_written_by_hand(tmp_path: Path) -> None:
    """They are packed along the rows, of which there is one: 9 and 6 stand for 1 and -2."""
    tensors = BY_HAND | {"w.weight_zero_point": np.array([[0x9, 0x6]], np.int32)}
    wanted = [[0.5 * (q - 9) for q in (0, 1, 2, 3)] + [2.0 * (q - 6) for q in (4, 5, 6, 7)]]
    quantization = compressed("pack-quantized", **FOURS, symmetric=False)
    np.testing.assert_array_equal(read(tmp_path, tensors, quantization), wanted)


def test_the_last_word_may_be_filled_up(tmp_path: Path) -> None:
    tensors = BY_HAND | {"w.weight_shape": np.array([1, 6]), "w.weight_scale": np.array([[2.0]], np.float32)}
    quantization = compressed("pack-quantized", num_bits=4, strategy="channel")
    np.testing.assert_array_equal(read(tmp_path, tensors, quantization), [[-16, -14, -12, -10, -8, -6]])


@pytest.mark.parametrize("shape", [[2, 8], [1, 9], [1, 0], [1, -8]])
def test_a_shape_that_is_not_what_is_stored_is_refused(tmp_path: Path, shape: list[int]) -> None:
    with pytest.raises(FamilyError, match=r"'w.weight_shape' says"):
        read(tmp_path, BY_HAND | {"w.weight_shape": np.array(shape)}, PACKED)


def test_columns_of_a_group_need_not_be_neighbours(tmp_path: Path) -> None:
    order = np.array([1, 0, 1, 0, 1, 0, 1, 0], np.int32)
    wanted = [[(2.0 if n % 2 == 0 else 0.5) * (n - 8) for n in range(8)]]
    quantization = compressed("pack-quantized", **FOURS, actorder="group")
    np.testing.assert_array_equal(read(tmp_path, BY_HAND | {"w.weight_g_idx": order}, quantization), wanted)


def test_an_order_that_was_never_filled_in_is_none(tmp_path: Path) -> None:
    tensors = BY_HAND | {"w.weight_g_idx": np.full(8, -1, np.int32)}
    (tmp_path / "filled").mkdir()
    plain = read(tmp_path / "filled", BY_HAND, PACKED)
    np.testing.assert_array_equal(read(tmp_path, tensors, PACKED), plain)


def test_int8_by_hand(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, INT8, ROWS), [[-64, 0, 63.5], [0.25, 0.5, 0.75]])
    assert format_of(write(tmp_path, INT8, ROWS)).weights["w.weight"].form == Quantization(8, None, symmetric=True)


@pytest.mark.parametrize("shape", [(1,), (), (1, 1)])
def test_one_scale_for_a_whole_weight(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors = INT8 | {"w.weight_scale": np.full(shape, 0.5, np.float32)}
    quantization = compressed("int-quantized", num_bits=8, strategy="tensor")
    np.testing.assert_array_equal(read(tmp_path, tensors, quantization), [[-64, 0, 63.5], [0.5, 1, 1.5]])


def test_int8_zero_points_by_hand(tmp_path: Path) -> None:
    tensors = INT8 | {"w.weight_zero_point": np.array([[-128], [1]], np.int8)}
    wanted = [[0, 64, 127.5], [0, 0.25, 0.5]]
    np.testing.assert_array_equal(
        read(
            tmp_path, tensors, ROWS | {"config_groups": config_group(num_bits=8, strategy="channel", symmetric=False)}
        ),
        wanted,
    )


def test_zero_points_are_used_wherever_they_are(tmp_path: Path) -> None:
    tensors = INT8 | {"w.weight_zero_point": np.array([[-128], [1]], np.int8)}
    np.testing.assert_array_equal(read(tmp_path, tensors, ROWS)[0], [0, 64, 127.5])


def test_what_is_ignored_is_read_as_it_is(tmp_path: Path) -> None:
    source = Source(write(tmp_path, INT8 | {"lm_head.weight": np.ones((2, 3), np.float32)}, ROWS))
    assert set(source.quantized.weights) == {"w.weight"}
    assert source.names() == {"w.weight", "lm_head.weight"}


@pytest.mark.parametrize("pattern", ["w", "re:^w$", "re:w"])
def test_what_is_ignored_must_not_be_quantized(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(FamilyError, match="leaves 'w' as it is, but its weight is stored quantized"):
        read(tmp_path, INT8, ROWS | {"ignore": [pattern]})


@pytest.mark.parametrize("target", ["w", "re:.*w$", "re:w"])
def test_a_group_that_names_a_module_goes_before_that_of_all(tmp_path: Path, target: str) -> None:
    groups = config_group(num_bits=8, strategy="channel")
    groups["group_1"] = {"targets": [target], "weights": {"num_bits": 8, "type": "int", "strategy": "tensor"}}
    tensors = INT8 | {"w.weight_scale": np.array([0.5], np.float32)}
    assert read(tmp_path, tensors, ROWS | {"config_groups": groups}).shape == (2, 3)


def test_scales_of_activations_and_caches_are_dropped_with_a_reason(tmp_path: Path) -> None:
    more = {"w.input_scale": np.ones(1, np.float32), "attn.k_scale": np.ones(1, np.float32)}
    source = Source(write(tmp_path, INT8 | more, ROWS))
    assert all(source.idle(name) for name in more)
    assert source.idle("w.weight") is None


GROUP = config_group(num_bits=8, strategy="channel")["group_0"]


@pytest.mark.parametrize(
    "change",
    [
        {"format": "nvfp4-pack-quantized"},
        {"format": None},
        {"config_groups": None},
        {"config_groups": {}},
        {"config_groups": {"group_0": {"targets": ["Linear"], "weights": None}}},
        {"config_groups": {"group_0": GROUP | {"targets": None}}},
        {"config_groups": {"group_0": GROUP | {"targets": ["re:("]}}},
        {"config_groups": {"group_0": GROUP | {"targets": ["other"]}}},
        {"config_groups": config_group(num_bits=3, strategy="channel")},
        {"config_groups": config_group(num_bits=8, strategy="token")},
        {"config_groups": config_group(num_bits=8, strategy="block")},
        {"config_groups": config_group(num_bits=8, strategy="group")},
        {"config_groups": config_group(num_bits=8, strategy="channel", symmetric="yes")},
        {"ignore": "lm_head"},
        {"ignore": [1]},
        {"sparsity_config": {"format": "sparse-24-bitmask"}},
        {"transform_config": {"config_groups": {"u": {}}}},
    ],
)
def test_other_forms_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(FamilyError, match=r"config.json") as refusal:
        read(tmp_path, INT8, ROWS | change)
    assert refusal.value.hint


def test_packed_weights_of_three_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match="num_bits 3"):
        read(tmp_path, BY_HAND, compressed("pack-quantized", **FOURS | {"num_bits": 3}))
