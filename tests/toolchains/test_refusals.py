"""What a vendor's compiler refuses, porter refuses before it: the same small graph is put to both."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from test_ports import TOOLCHAINS

from porter.errors import TargetError
from porter.graph import Graph, inferred
from porter.passes.checks import check
from porter.target import frontends

pytestmark = pytest.mark.toolchains
FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64

Build = Callable[[Graph, ir.Value], ir.Value]


def plain(op_type: str) -> Build:
    return lambda graph, x: graph.op.Add(graph.emit(op_type, [x], None, {}), x)


def least(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Min(x, graph.op.Mul(x, x))


def triangle(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Trilu(x)


def scattered(graph: Graph, x: ir.Value) -> ir.Value:
    places = graph.constant(np.zeros((1, 24), np.int64), INT64)
    return graph.op.ScatterElements(x, places, graph.op.Mul(x, x), axis=0)


def adding(graph: Graph, x: ir.Value) -> ir.Value:
    rows, update = graph.constant([[0], [0]], INT64), graph.constant(np.ones((2, 24)), FLOAT)
    return graph.op.ScatterND(x, rows, update, reduction="add")


def by_axis(graph: Graph, x: ir.Value) -> ir.Value:
    codes = graph.constant(np.arange(-12, 12).reshape(1, 24), ir.DataType.INT8)
    return graph.op.Add(x, graph.op.DequantizeLinear(codes, graph.constant(np.ones(24), FLOAT), axis=1))


def normalized(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.LayerNormalization(x, *[graph.constant(np.ones(24), FLOAT)] * 2)


def where_it_is(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Cast(graph.op.NonZero(x), to=FLOAT)


OPERATORS: dict[str, Build] = {
    "Sigmoid": plain("Sigmoid"),
    "Reciprocal": plain("Reciprocal"),
    "Min": least,
    "Trilu": triangle,
    "ScatterElements": scattered,
    "ScatterND": adding,
    "DequantizeLinear": by_axis,
    "LayerNormalization": normalized,
    "NonZero": where_it_is,
}
TOOLS = {"sophgo": "tpu-mlir", "rockchip": "rknn-toolkit2", "canaan": "nncase"}
REFUSED = {
    "sophgo": ("ScatterND", "DequantizeLinear"),
    "rockchip": ("Min", "Trilu", "ScatterElements", "LayerNormalization", "DequantizeLinear"),
    "canaan": ("Reciprocal", "ScatterElements", "LayerNormalization", "DequantizeLinear", "NonZero"),
}


def graph_of(operator: str) -> ir.Model:
    graph = Graph()
    y = OPERATORS[operator](graph, graph.input("x", FLOAT, [1, 24]))
    graph.output(y, "y", [2, 24] if operator == "NonZero" else [1, 24])
    graph.root.opset_imports.pop("porter", None)
    return ir.Model(graph.root, ir_version=8)


def by_the_compiler(driver: str, operator: str, folder: Path) -> subprocess.CompletedProcess[str]:
    ir.save(graph_of(operator), folder / "graph.onnx")
    np.savez(folder / "in.npz", x=np.arange(1, 25, dtype=np.float32).reshape(1, 24))
    command = [TOOLCHAINS / TOOLS[driver] / "bin" / "python", Path(__file__).with_name(f"{driver}.py")]
    files = [folder / "graph.onnx", folder / "in.npz", folder / "out.npz"]
    return subprocess.run([*command, *files], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("driver", "operator"), [(d, op) for d, operators in REFUSED.items() for op in operators])
def test_porter_says_it_first(driver: str, operator: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=f"{TOOLS[driver]} does not take this graph: .*{operator}"):
        check(inferred(graph_of(operator)), frontends()[TOOLS[driver]])
    done = by_the_compiler(driver, operator, tmp_path)
    assert done.returncode == 1, done.stdout[-1000:]
    assert "refused: " in done.stdout


@pytest.mark.parametrize("driver", TOOLS)
def test_a_graph_that_porter_lets_pass_is_taken(driver: str, tmp_path: Path) -> None:
    """So that a refusal above is one of the operator, not of the graph around it."""
    check(inferred(graph_of("Sigmoid")), frontends()[TOOLS[driver]])
    done = by_the_compiler(driver, "Sigmoid", tmp_path)
    assert done.returncode == 0, done.stdout[-1000:]
