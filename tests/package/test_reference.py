"""Weights that stay in the checkpoint's shards: which ones can, by the headers alone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from bindings import weights
from safetensors.numpy import save_file

from porter.blocks.module import Parameter
from porter.checkpoint import TensorInfo, parse_header
from porter.errors import PortError
from porter.package.reference import clone, reference, refuse_links
from porter.weights import Piece, Weight

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


@pytest.fixture
def tensors(tmp_path: Path) -> dict[str, TensorInfo]:
    """Two that lie next to one another, a and b, and c in another file."""
    save_file({"a": np.zeros((4, 3), np.float32), "b": np.zeros((6, 3), np.float32)}, tmp_path / "one.safetensors")
    save_file({"c": np.zeros((2, 3), np.float32)}, tmp_path / "two.safetensors")
    found = [t for name in ("one", "two") for t in parse_header(tmp_path / f"{name}.safetensors")]
    return {t.name: t for t in found}


def weight(*pieces: tuple[str, int, int], rows: int) -> Weight:
    shapes = {"a": (4, 3), "b": (6, 3), "c": (2, 3)}
    return Weight(Parameter((rows, 3), name="w"), tuple(Piece(n, shapes[n], a, b) for n, a, b in pieces))


@pytest.mark.parametrize(
    ("pieces", "begins", "rows"),
    [
        ([("a", 0, 4)], ("a", 0), 4),
        ([("b", 2, 5)], ("b", 2), 3),
        ([("a", 2, 4), ("b", 0, 1)], ("a", 2), 3),
        ([("b", 0, 2), ("b", 2, 6)], ("b", 0), 6),
    ],
)
def test_rows_that_follow_one_another_stay(
    tensors: dict[str, TensorInfo], pieces: list[tuple[str, int, int]], begins: tuple[str, int], rows: int
) -> None:
    found = reference(weight(*pieces, rows=rows), tensors, FLOAT)
    assert found is not None
    first = tensors[begins[0]]
    assert (found.file, found.place.offset) == (first.file, first.offset + begins[1] * 12)
    assert (found.place.name, found.place.shape, found.place.nbytes) == ("w", (rows, 3), rows * 12)


@pytest.mark.parametrize("pieces", [[("b", 0, 1), ("a", 0, 4)], [("a", 0, 1), ("a", 2, 3)], [("b", 5, 6), ("c", 0, 1)]])
def test_others_are_written(tensors: dict[str, TensorInfo], pieces: list[tuple[str, int, int]]) -> None:
    rows = sum(b - a for _, a, b in pieces)
    assert reference(weight(*pieces, rows=rows), tensors, FLOAT) is None


def test_another_dtype_and_a_table_are_written(tensors: dict[str, TensorInfo]) -> None:
    assert reference(weight(("a", 0, 4), rows=4), tensors, HALF) is None
    assert reference(weights((4, 3))[0], tensors, FLOAT) is None


def test_links_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "one"
    file.write_bytes(b"x")
    refuse_links([file])
    (tmp_path / "soft").symlink_to(file)
    with pytest.raises(PortError, match="symbolic link"):
        refuse_links([tmp_path / "soft"])
    os.link(file, tmp_path / "hard")
    with pytest.raises(PortError, match="hard link"):
        refuse_links([file])


def test_a_clone_is_a_file_of_its_own_or_refused(tmp_path: Path) -> None:
    """What the file system under the tests can do decides which."""
    file, copy = tmp_path / "one", tmp_path / "port" / "one"
    copy.parent.mkdir()
    file.write_bytes(b"x" * 9999)
    with contextlib.suppress(PortError):
        clone(file, copy)
        assert (copy.read_bytes(), copy.stat().st_nlink) == (file.read_bytes(), 1)
        return
    with pytest.raises(PortError, match="cannot share blocks") as refusal:
        clone(file, copy)
    assert "in place" in refusal.value.hint
    assert "--weights copy" in refusal.value.hint
