"""AWQ: words written out by hand, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packing import AWQ, write

from porter.errors import FamilyError
from porter.formats import decode, format_of
from porter.quantize import Quantization

# Eight outputs of two inputs, each input a group. From the lowest bits a word has the outputs 0 2 4 6 1 3 5 7, so what
# is written down from the highest bits is 7 5 3 1 6 4 2 0.
BY_HAND = {
    "w.qweight": np.array([[0x7531_6420], [0x0000_000F]], np.int32),
    "w.qzeros": np.array([[0x0000_0000], [0x1000_0001]], np.int32),
    "w.scales": np.array([[1.0] * 8, [0.5, 1, 1, 1, 1, 1, 1, 2.0]], np.float16),
}
ONES = AWQ | {"group_size": 1}


def read(folder: Path, quantization: dict[str, Any], start: int = 0, stop: int = 8) -> np.ndarray:
    checkpoint = write(folder, BY_HAND, quantization)
    packed = format_of(checkpoint).weights["w.weight"]
    assert packed.shape == (8, 2)
    return decode(packed.codes(checkpoint.read, start, stop), np.dtype(np.float32), "w.weight")


def test_words_written_by_hand(tmp_path: Path) -> None:
    """Output n has the code n for input 0; for input 1, output 0 has 15 and a zero point of 1, output 7 only that."""
    wanted = np.array([[n, 0.0] for n in range(8)])
    wanted[0, 1], wanted[7, 1] = 0.5 * (15 - 1), 2.0 * (0 - 1)
    np.testing.assert_array_equal(read(tmp_path, ONES), wanted)
    np.testing.assert_array_equal(read(tmp_path, ONES, 5, 8), wanted[5:])


def test_its_form_is_asymmetric(tmp_path: Path) -> None:
    assert format_of(write(tmp_path, BY_HAND, ONES)).weights["w.weight"].form == Quantization(4, 1, symmetric=False)


@pytest.mark.parametrize(
    "change", [{"bits": 3}, {"bits": 8}, {"version": "gemv"}, {"zero_point": False}, {"group_size": None}]
)
def test_other_forms_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(FamilyError, match="quantization_config") as refusal:
        read(tmp_path, ONES | change)
    assert refusal.value.hint
