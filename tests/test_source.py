"""Reading through the ledger: what was read is digested, and no more is held than a chunk."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import packing
import pytest

from porter import source as reading
from porter.source import Ledger, Source


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.fixture
def matrix() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32)


@pytest.fixture
def ledger(matrix: np.ndarray, tmp_path: Path) -> Ledger:
    return Ledger(packing.write(tmp_path, {"m": matrix, "n": matrix + 1}, None))


def test_rows_that_follow_one_another_are_one_range(ledger: Ledger, matrix: np.ndarray) -> None:
    for start, stop in ((2, 4), (4, 9), (10, 12)):
        np.testing.assert_array_equal(ledger.read("m", start, stop), matrix[start:stop])
    assert ledger.ranges() == {"m[2:9]": sha256(matrix[2:9]), "m[10:12]": sha256(matrix[10:12])}
    assert ledger.ranges() == {}


def test_columns_are_digested_as_a_whole(ledger: Ledger, matrix: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", 50)
    for _ in range(2):  # as often as it is asked, though it is taken once
        np.testing.assert_array_equal(ledger.read("m", 1, 3, axis=1), matrix[:, 1:3])
        ledger.read("m", 4, 6, axis=1)
        assert ledger.ranges() == {"m": sha256(matrix)}


@pytest.mark.parametrize("form", ["fp8", "gptq", "gptq-scattered", "awq", "packed-asymmetric", "int8"])
def test_no_more_than_a_chunk_is_held(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even of what lies on its side: a weight of 2 MB in float32 is read with a tenth of that."""
    weight = np.random.default_rng(0).standard_normal((4096, 128)).astype(np.float32)
    tensors, means = packing.pack(form, weight)
    source = Source(packing.write(tmp_path, tensors, packing.FORMS[form][0]))
    monkeypatch.setattr(reading, "CHUNK_BYTES", 16384)
    read, at = Ledger(source.checkpoint).read, 0
    for rows in source.rows(read, "w.weight", 0, 32, np.dtype(np.float32)):
        assert rows.size  # tables and imports are there now
    tracemalloc.start()
    for rows in source.rows(read, "w.weight", 0, 4096, np.dtype(np.float32)):
        assert np.array_equal(rows, means[at : at + len(rows)])
        at += len(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert at == 4096
    assert peak < means.nbytes / 10
