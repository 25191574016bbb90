"""One weight file: what its header says, its digest, and going on after any interruption."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file, save_file

from porter import source as reading
from porter.behind import Behind
from porter.blocks.module import Parameter
from porter.checkpoint import Checkpoint, open_checkpoint
from porter.errors import PortError
from porter.package.files import digest_of
from porter.package.plan import PlannedFile, plan_files
from porter.package.stream import write_weights
from porter.quantize import FORMS
from porter.source import Source
from porter.weights import Piece, Weight

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
ROWS = {"a": (40, 6), "b": (30, 6), "c": (17,), "ad": (10, 64), "ae": (5, 64)}


class Stop(Exception):
    """The plug was pulled."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in ROWS.items()}
    save_file(tensors, folder / "model.safetensors")
    return open_checkpoint(folder)


@pytest.fixture
def planned() -> PlannedFile:
    """A stack of whole and partial tensors, a table, and a plain one."""
    stacked = (Piece("a", ROWS["a"]), Piece("b", ROWS["b"], 3, 13), Piece("b", ROWS["b"], 20, 30))
    table = Parameter((5, 2), name="table", table=lambda: np.arange(10.0).reshape(5, 2))
    rest = Weight(Parameter(ROWS["c"], name="c"), (Piece("c", ROWS["c"]),))
    (file,) = plan_files([Weight(Parameter((60, 6), name="stack"), stacked), Weight(table, ()), rest], FLOAT)
    return file


@pytest.fixture
def coded() -> PlannedFile:
    """A stack of codes with their scales and zero points, between two that are numbers."""
    form = FORMS["int4:32:asymmetric"]
    stack = Parameter((3, 5, 64), name="stack", quantizable=True, quantization=form)
    pieces = (Piece("ad", (10, 64)), Piece("ae", (5, 64)))
    plain = [Weight(Parameter(ROWS[name], name=name), (Piece(name, ROWS[name]),)) for name in "bc"]
    (file,) = plan_files([plain[0], Weight(stack, pieces), plain[1]], FLOAT)
    return file


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", 100)  # four rows


def write(folder: Path, file: PlannedFile, checkpoint: Checkpoint, threads: int = 2, **more: Any) -> dict[str, Any]:
    count: Callable[[int], None] = more.get("count", lambda nbytes: None)
    (folder / "port").mkdir(parents=True, exist_ok=True)
    return write_weights(folder / "port", file, Source(checkpoint), FLOAT, ahead=3 * (threads - 1), count=count)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_written_file_is_what_its_header_says(
    tmp_path: Path, planned: PlannedFile, checkpoint: Checkpoint, threads: int
) -> None:
    seen: list[int] = []
    entry = write(tmp_path, planned, checkpoint, threads, count=seen.append)
    path = tmp_path / "port" / planned.name
    assert {key: entry[key] for key in ("file", "bytes", "sha256")} == digest_of(path)
    assert sum(seen) == planned.size() - len(planned.header)
    a, b, c = (checkpoint.read(name) for name in "abc")
    stored = load_file(path)
    np.testing.assert_array_equal(stored["stack"], np.concatenate([a, b[3:13], b[20:30]]))
    np.testing.assert_array_equal(stored["table"], np.arange(10.0).reshape(5, 2))
    np.testing.assert_array_equal(stored["c"], c)


def test_every_source_range_has_its_digest(tmp_path: Path, planned: PlannedFile, checkpoint: Checkpoint) -> None:
    entry = write(tmp_path, planned, checkpoint)
    b = checkpoint.read("b")
    ranges = {"a": checkpoint.read("a"), "b[3:13]": b[3:13], "b[20:30]": b[20:30], "c": checkpoint.read("c")}
    assert entry["source"] == {name: hashlib.sha256(rows.tobytes()).hexdigest() for name, rows in ranges.items()}


def test_what_is_being_digested_cannot_be_changed(checkpoint: Checkpoint) -> None:
    behind = Behind()
    rows = reading.Ledger(checkpoint, behind).read("a", 0, 3)
    with pytest.raises(ValueError, match="read-only"):
        rows += 1
    behind.end()


def stop_after(nbytes: int) -> Callable[[int], None]:
    left = nbytes

    def count(written: int) -> None:
        nonlocal left
        left -= written
        if left < 0:
            raise Stop

    return count


@pytest.mark.parametrize("after", range(0, 1600, 90))
@pytest.mark.parametrize("threads", [1, 2])
def test_it_goes_on_after_any_interruption(
    tmp_path: Path, planned: PlannedFile, checkpoint: Checkpoint, after: int, threads: int
) -> None:
    """Interrupted, then interrupted again a little later, then left alone: the same bytes and the same entry."""
    whole = write(tmp_path / "whole", planned, checkpoint)
    for more in (0, 300):
        with pytest.raises(Stop):
            write(tmp_path / "cut", planned, checkpoint, threads, count=stop_after(min(after + more, 1500)))
    read: list[str] = []
    source, original = Source(checkpoint), Checkpoint.read

    def noted(self: Checkpoint, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        read.append(name)
        return original(self, name, start, stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "read", noted)
        entry = write_weights(
            tmp_path / "cut" / "port", planned, source, FLOAT, ahead=3 * (threads - 1), count=lambda nbytes: None
        )
    assert entry == whole
    assert (tmp_path / "cut" / "port" / planned.name).read_bytes() == (
        tmp_path / "whole" / "port" / planned.name
    ).read_bytes()
    if after > 1100:
        assert "a" not in read, "what was finished is not read again"


@pytest.mark.parametrize("harm", ["bytes", "journal", "half a line", "file gone", "no journal"])
def test_what_was_harmed_meanwhile_is_made_again(
    tmp_path: Path, planned: PlannedFile, checkpoint: Checkpoint, harm: str
) -> None:
    whole = write(tmp_path / "whole", planned, checkpoint)
    with pytest.raises(Stop):
        write(tmp_path / "cut", planned, checkpoint, count=stop_after(1450))
    file, journal = tmp_path / "cut" / "port" / planned.name, tmp_path / "cut" / f"{planned.name}.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    match harm:
        case "bytes":
            content = bytearray(file.read_bytes())
            content[len(planned.header) + 40 * 24 + 3] ^= 1
            file.write_bytes(content)
        case "journal":
            journal.write_bytes(lines[0] + b"\x00\x00\n" + lines[2])
        case "half a line":
            journal.write_bytes(lines[0] + lines[1][:20])
        case "file gone":
            file.unlink()
        case "no journal":
            journal.unlink()
    assert write(tmp_path / "cut", planned, checkpoint) == whole
    assert digest_of(file)["sha256"] == whole["sha256"]


def test_a_longer_file_of_another_time_is_cut(tmp_path: Path, planned: PlannedFile, checkpoint: Checkpoint) -> None:
    (tmp_path / "port").mkdir()
    (tmp_path / "port" / planned.name).write_bytes(b"x" * 9999)
    entry = write(tmp_path, planned, checkpoint)
    assert digest_of(tmp_path / "port" / planned.name)["sha256"] == entry["sha256"]


def test_an_error_while_reading_is_raised_where_it_is_written(
    tmp_path: Path, planned: PlannedFile, checkpoint: Checkpoint
) -> None:
    file = checkpoint.tensors["c"].file
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(Exception, match="was cut"):
        write(tmp_path, planned, checkpoint)


def test_rows_that_do_not_fill_their_place_are_noticed(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Weight(Parameter((5, 6), name="w"), (Piece("a", (5, 6), 0, 4),))  # as bind would never let through
    (file,) = plan_files([short], FLOAT)
    steps = list(file.steps())
    assert steps[0].spans[0][1] == 4 * 24
    object.__setattr__(steps[0], "spans", ((steps[0].spans[0][0], 5 * 24),))
    monkeypatch.setattr(PlannedFile, "steps", lambda self: iter(steps))
    with pytest.raises(PortError, match="-24 bytes off"):
        write(tmp_path, file, checkpoint)


@pytest.mark.parametrize("threads", [1, 2])
def test_codes_scales_and_zero_points_lie_one_behind_the_other(
    tmp_path: Path, coded: PlannedFile, checkpoint: Checkpoint, threads: int
) -> None:
    seen: list[int] = []
    entry = write(tmp_path, coded, checkpoint, threads, count=seen.append)
    path = tmp_path / "port" / coded.name
    assert {key: entry[key] for key in ("file", "bytes", "sha256")} == digest_of(path)
    assert sum(seen) == coded.size() - len(coded.header)
    stored = load_file(path)
    assert list(stored) == ["b", "stack", "stack_scale", "stack_zero_point", "c"]
    rows = np.concatenate([checkpoint.read("ad"), checkpoint.read("ae")]).reshape(3, 5, 64)
    whole = FORMS["int4:32:asymmetric"].encode(rows, "stack")
    for name, expected in zip(("stack", "stack_scale", "stack_zero_point"), whole, strict=True):
        np.testing.assert_array_equal(stored[name], expected)


@pytest.mark.parametrize("after", range(0, 1350, 130))
@pytest.mark.parametrize("threads", [1, 2])
def test_codes_go_on_after_any_interruption(
    tmp_path: Path, coded: PlannedFile, checkpoint: Checkpoint, after: int, threads: int
) -> None:
    whole = write(tmp_path / "whole", coded, checkpoint)
    with pytest.raises(Stop):
        write(tmp_path / "cut", coded, checkpoint, threads, count=stop_after(after))
    assert write(tmp_path / "cut", coded, checkpoint, threads) == whole
    assert digest_of(tmp_path / "cut" / "port" / coded.name)["sha256"] == whole["sha256"]
