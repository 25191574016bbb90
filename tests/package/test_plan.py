"""The plan: which byte of which weight lies where."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from bindings import weights

from porter.blocks.module import Parameter
from porter.checkpoint import parse_header
from porter.errors import GraphError, PortError
from porter.graph import Graph
from porter.package.plan import SHARD_BYTES, bind_graph, parse_size, plan_files
from porter.weights import Piece, Weight

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def test_files_are_cut_between_weights() -> None:
    files = plan_files(weights((10,), (15,), (5,), (40,)), FLOAT, 100)  # 40, 60, 20 and 160 bytes
    assert [[w.weight.parameter.name for w in f.weights] for f in files] == [["w0", "w1"], ["w2"], ["w3"]]
    assert [f.name for f in files] == [f"weights-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]


def test_nothing_to_write_is_no_file() -> None:
    assert plan_files((), FLOAT) == ()


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
def test_places_are_those_of_the_header(tmp_path: Path, dtype: ir.DataType) -> None:
    (file,) = plan_files(weights((2, 3), (4,), (1, 2, 2), (0, 5)), dtype)
    path = tmp_path / file.name
    path.write_bytes(file.header + bytes(file.size() - len(file.header)))
    found = {t.name: (t.offset, t.nbytes, t.shape) for t in parse_header(path)}
    assert found == {p.name: (p.offset, p.nbytes, p.shape) for w in file.weights for p in w.places}


def test_steps_cover_every_byte_once_and_in_order() -> None:
    parameter = Parameter((6, 3), name="a")
    pieces = (Piece("x", (4, 3)), Piece("y", (8, 3), 2, 3), Piece("y", (8, 3), 5, 6))
    (file,) = plan_files([Weight(parameter, pieces), *weights((5,))], HALF)
    steps = list(file.steps())
    assert [step.piece for step in steps] == [*pieces, None]
    assert [length for step in steps for _, length in step.spans] == [24, 6, 6, 10]
    at = len(file.header)
    for step in steps:
        ((offset, length),) = step.spans
        assert offset == at
        at += length
    assert at == file.size()
    assert [bool(step.finishes) for step in steps] == [False, False, True, True]


def test_a_weight_that_no_node_reads_does_not_vanish_silently(tmp_path: Path) -> None:
    graph, bound = Graph(), weights((2, 2), (2, 2))
    x = graph.input("x", FLOAT, [2, 2])
    graph.output(graph.op.MatMul(x, graph.parameter("w0", FLOAT, (2, 2))), "y", [2, 2])
    with pytest.raises(GraphError, match="'w1' is read by no node"):
        bind_graph(graph.root, plan_files(bound, FLOAT), tmp_path)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("5GB", 5 * 10**9), ("4GiB", SHARD_BYTES), ("1.5 mb", 1_500_000), ("2KIB", 2048), ("1tb", 10**12), ("1B", 1)],
)
def test_a_size_of_files(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "5", "GB", "-1GB", "0GB", "5 iB", "1e3GB", "9" * 400 + "GB", "nanGB", "٣GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(PortError, match="is no size"):
        parse_size(text)
