"""The port folder comes whole or not at all, and every weight lies where the plan says."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from porter import package
from porter.blocks.module import Parameter
from porter.checkpoint import parse_header
from porter.errors import GraphError, PortError
from porter.graph import Graph
from porter.package import MANIFEST, bind_graph, new_folder, plan_files, refuse_output, write_file, write_weights
from porter.weights import Binding, Weight

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
Usage = namedtuple("Usage", "total used free")


def binding(*shapes: tuple[int, ...]) -> Binding:
    """Weights w0, w1 … whose content is computed: counted up from their number."""
    weights = []
    for n, shape in enumerate(shapes):
        content = n + np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
        weights.append(Weight(Parameter(shape, table=lambda content=content: content, name=f"w{n}"), ()))
    return Binding(tuple(weights))


def test_files_are_cut_between_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "SHARD_BYTES", 100)
    files = plan_files(binding((10,), (15,), (5,), (40,)), FLOAT)  # 40, 60, 20 and 160 bytes
    assert [[w.parameter.name for w, _ in f.weights] for f in files] == [["w0", "w1"], ["w2"], ["w3"]]
    assert [f.name for f in files] == [f"weights-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
def test_a_written_file_is_what_its_header_says(tmp_path: Path, dtype: ir.DataType) -> None:
    (file,) = plan_files(binding((2, 3), (4,), (1, 2, 2)), dtype)
    seen: list[int] = []
    entry = write_weights(tmp_path, file, None, seen.append)  # type: ignore[arg-type]  # tables need no source
    assert entry["bytes"] == (tmp_path / file.name).stat().st_size == file.size()
    assert entry == package.digest_of(tmp_path / file.name)
    assert sum(seen) == file.size() - len(file.header)
    for info, (weight, _, offset, length) in zip(parse_header(tmp_path / file.name), file.offsets(), strict=True):
        assert (info.name, info.offset, info.nbytes) == (weight.parameter.name, offset, length)
        stored = np.fromfile(info.file, dtype.numpy(), offset=offset, count=int(np.prod(info.shape)))
        np.testing.assert_array_equal(stored, np.asarray(weight.parameter.table()).ravel())  # type: ignore[misc]


def test_a_weight_that_no_node_reads_does_not_vanish_silently(tmp_path: Path) -> None:
    graph, bound = Graph(), binding((2, 2), (2, 2))
    x = graph.input("x", FLOAT, [2, 2])
    graph.output(graph.op.MatMul(x, graph.parameter("w0", FLOAT, (2, 2))), "y", [2, 2])
    with pytest.raises(GraphError, match="'w1' is read by no node"):
        bind_graph(graph.root, plan_files(bound, FLOAT), tmp_path)


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with new_folder(tmp_path / "port", 0, force=False) as partial:
        write_file(partial, MANIFEST, b"{}")
        assert not (tmp_path / "port").exists()
    assert os.listdir(tmp_path) == ["port"]
    assert os.listdir(tmp_path / "port") == [MANIFEST]


def fail_inside(output: Path, error: BaseException) -> None:
    with new_folder(output, 0, force=False) as partial:
        write_file(partial, "half", b"written")
        raise error


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_nothing_is_left_when_it_does_not(tmp_path: Path, error: BaseException) -> None:
    wanted = PortError if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted):
        fail_inside(tmp_path / "new" / "parents" / "port", error)
    assert os.listdir(tmp_path) == []


def test_a_port_that_is_there_outlives_a_failure(tmp_path: Path) -> None:
    (tmp_path / "port").mkdir()
    (tmp_path / "port" / MANIFEST).write_text("old")
    with pytest.raises(ValueError, match="x"), new_folder(tmp_path / "port", 0, force=True):
        raise ValueError("x")
    assert (tmp_path / "port" / MANIFEST).read_text() == "old"
    with new_folder(tmp_path / "port", 0, force=True) as partial:
        write_file(partial, MANIFEST, b"new")
    assert (tmp_path / "port" / MANIFEST).read_text() == "new"
    assert os.listdir(tmp_path) == ["port"]


def test_a_port_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="exists"), new_folder(tmp_path / "port", 0, force=False):
        (tmp_path / "port").mkdir()
    assert os.listdir(tmp_path) == ["port"]


def test_room_is_asked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 20 * 2**20))
    with pytest.raises(PortError, match="MB free"), new_folder(tmp_path / "port", 10 * 2**20, force=False):
        pytest.fail("there is no room for this")
    with new_folder(tmp_path / "port", 2**20, force=False):
        pass


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_force_replaces_ports_only(tmp_path: Path, kind: str) -> None:
    output, port = tmp_path / "output", tmp_path / "port"
    port.mkdir()
    (port / MANIFEST).write_text("{}")
    makers = {"folder": output.mkdir, "file": output.touch, "link": lambda: output.symlink_to(port)}
    makers[kind]()
    with pytest.raises(PortError, match="not a port"):
        refuse_output(output, force=True)
    refuse_output(port, force=True)


def test_the_umask_is_kept(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with new_folder(tmp_path / "port", 0, force=False) as partial:
            write_file(partial, MANIFEST, b"{}")
    finally:
        os.umask(before)
    assert [p.stat().st_mode & 0o077 for p in (tmp_path / "port", tmp_path / "port" / MANIFEST)] == [0, 0]
