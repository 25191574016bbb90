"""A narrow dtype emulated: each result is what arithmetic at that dtype gives, and float32 islands stay float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tiny
from surgery import KINDS, WEIGHTS, header, weight_of

from porter.graph import Graph, all_nodes
from porter.manifest import open_port
from porter.model import understand
from porter.port import convert
from porter.verify.emulate import emulate, narrow_weights
from porter.verify.original import Original
from porter.verify.runs import open_stage

KIND = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
TYPE = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
Emit = Callable[..., ir.Value]


@pytest.fixture(params=sorted(KIND))
def dtype(request: pytest.FixtureRequest) -> str:
    """Every narrow dtype in turn."""
    return str(request.param)


def emulated(dtype: str, emit: Emit, *inputs: np.ndarray) -> np.ndarray:
    """What `emit` gives for inputs of this dtype, in a graph that is emulated."""
    graph = Graph()
    values = [graph.input(f"x{n}", TYPE[dtype], list(x.shape)) for n, x in enumerate(inputs)]
    result = emit(graph.op, *values)
    graph.output(result, "y", [None] * len(np.shape(inputs[0])))
    model = ir.Model(graph.root, ir_version=8)
    emulate(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    proto = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    feed = {f"x{n}": x.astype(np.float32) for n, x in enumerate(inputs)}
    (found,) = session.run(["y"], feed)
    return np.asarray(found)


def numbers(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    """Of all sizes that the dtype has, near its ends too."""
    generator = np.random.default_rng(seed)
    wide = generator.standard_normal(shape) * 2.0 ** generator.integers(-16, 15, shape)
    return wide.astype(KIND[dtype])


ELEMENTWISE: dict[str, tuple[Emit, Callable[..., np.ndarray]]] = {
    "add": (lambda op, a, b: op.Add(a, b), np.add),
    "subtract": (lambda op, a, b: op.Sub(a, b), np.subtract),
    "multiply": (lambda op, a, b: op.Mul(a, b), np.multiply),
    "divide": (lambda op, a, b: op.Div(a, b), np.divide),
    "a chain": (lambda op, a, b: op.Mul(op.Add(a, b), op.Sub(a, b)), lambda a, b: (a + b) * (a - b)),
    "a square root": (lambda op, a, b: op.Sqrt(op.Mul(a, a)), lambda a, b: np.sqrt(a * a)),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@np.errstate(all="ignore")
def test_elementwise_it_is_the_arithmetic_of_the_dtype(name: str, dtype: str) -> None:
    """float32 has more than twice the digits, so rounding its result once more is rounding the exact one."""
    a, b = numbers(dtype, 4000), numbers(dtype, 4000, seed=1)
    emit, known = ELEMENTWISE[name]
    expected = known(a, b)
    assert expected.dtype == KIND[dtype]
    np.testing.assert_array_equal(emulated(dtype, emit, a, b), expected.astype(np.float32))


def test_a_matrix_product_is_added_up_in_float32_and_rounded_once(dtype: str) -> None:
    generator = np.random.default_rng(2)
    a, b = (generator.standard_normal(shape).astype(KIND[dtype]) for shape in ((7, 300), (300, 5)))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    found = emulated(dtype, lambda op, a, b: op.MatMul(a, b), a, b)
    rounded = exact.astype(KIND[dtype]).astype(np.float64)
    assert (found == found.astype(KIND[dtype]).astype(np.float32)).all()
    assert (found == rounded).mean() > 0.9  # the rest lies where float32 and float64 round to neighbours
    assert np.abs(found - exact).max() < 1.01 * np.abs(rounded - exact).max()


def test_what_the_graph_keeps_in_float32_is_not_rounded(dtype: str) -> None:
    a = numbers(dtype, 500)

    def island(op: Any, a: ir.Value) -> ir.Value:
        wide = op.Cast(a, to=ir.DataType.FLOAT)
        third = op.Div(wide, op.Add(wide, op.Add(wide, wide)))
        return op.Cast(op.Sub(third, op.Div(wide, op.Add(wide, wide))), to=TYPE[dtype])

    wide = a[a != 0].astype(np.float32)
    expected = (wide / (wide + (wide + wide)) - wide / (wide + wide)).astype(KIND[dtype])
    found = emulated(dtype, island, a[a != 0])
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_what_does_not_fit_becomes_infinite() -> None:
    a = np.array([60000, 65504, -65504, 1], np.float16)
    found = emulated("float16", lambda op, a, b: op.Add(a, b), a, np.array([6000, 15, -32, 1], np.float16))
    assert found.tolist() == [np.inf, 65504, -np.inf, 2]


# ------------------------------------------------------------------ whole ports


@pytest.fixture(scope="module")
def narrow_port(deepseek: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float16 port with a loop over experts."""
    folder = tmp_path_factory.mktemp("emulated") / "port"
    convert(deepseek, "onnxruntime-cpu", folder, dtype="float16")
    return folder


def test_every_narrow_result_is_rounded_and_no_other(narrow_port: Path) -> None:
    before, after = (ir.from_proto(onnx.load(narrow_port / "model.onnx", load_external_data=False)) for _ in range(2))
    emulate(after)
    types = {v.name: v.dtype for node in all_nodes(before.graph) for v in node.outputs}
    assert None not in types.values()
    loops = [node for node in all_nodes(before.graph) if node.op_type == "Loop"]
    inside = {v.name for loop in loops for node in loop.attributes["body"].as_graph() for v in node.outputs}
    assert any(types[name] == ir.DataType.FLOAT16 for name in inside)
    made = {v.name: v for node in all_nodes(after.graph) for v in node.outputs}
    for name, dtype in types.items():
        value = made[name]
        if dtype == ir.DataType.FLOAT16:
            back = value.producer()
            there = back.inputs[0].producer()
            assert (back.op_type, back.attributes["to"].as_int()) == ("Cast", ir.DataType.FLOAT)
            assert (there.op_type, there.attributes["to"].as_int()) == ("Cast", ir.DataType.FLOAT16)
            assert there.inputs[0].name == f"{name}.exact"
            assert len(list(there.inputs[0].uses())) == 1
        else:
            assert value.producer().name in {node.name for node in all_nodes(before.graph)}


def test_weights_are_those_of_the_ports_own_files(narrow_port: Path) -> None:
    model = ir.from_proto(onnx.load(narrow_port / "model.onnx", load_external_data=False))
    names, values = narrow_weights(model, narrow_port)
    stored = {name: entry["dtype"] for name, entry in header(narrow_port).items() if name != "__metadata__"}
    assert set(names) == {name for name, kind in stored.items() if kind == "F16"}
    assert "model.layers.1.mlp.gate.weight" not in names  # routers stay in float32
    data = (narrow_port / WEIGHTS).read_bytes()
    start = int.from_bytes(data[:8], "little") + 8
    for name, value in zip(names, values, strict=True):
        first, last = header(narrow_port)[name]["data_offsets"]
        expected = np.frombuffer(data[start + first : start + last], KINDS["F16"]).astype(np.float32)
        np.testing.assert_array_equal(value.numpy().ravel(), expected)


def test_it_is_off_from_the_exact_original_as_a_runtime_with_float16_is(narrow_port: Path, deepseek: Path) -> None:
    """ONNX Runtime has some float16 kernels and casts for the others, so it rounds at some of the same places."""
    ids = np.random.default_rng(5).integers(0, 100, (4, 20))
    positions, ones = np.broadcast_to(np.arange(20), ids.shape), np.ones_like(ids)
    session = open_stage(open_port(narrow_port), understand(deepseek), None, forced=False, deployed=True)
    trace, _ = session.run(ids, positions, ones)
    runner = tiny.Runner(narrow_port)
    real, _ = runner.run(ids, positions, ones, runner.empty(len(ids), 0))
    exact, _ = Original(deepseek, "float64").run(ids, routes=trace.routes)
    errors = [np.median(np.abs(logits.astype(np.float64) - exact.logits)) for logits in (trace.logits, real)]
    assert errors[0] == pytest.approx(errors[1], rel=0.5)


def test_a_weight_that_was_changed_in_the_file_is_what_is_run(narrow_port: Path, llama: Path, tmp_path: Path) -> None:
    convert(llama, "onnxruntime-cpu", tmp_path / "port", dtype="float16")
    with weight_of(tmp_path / "port", "lm_head.weight") as weight:
        weight[3] = 0
    ids = np.arange(6)[None]
    arguments = ids, ids, np.ones_like(ids)
    port, model = open_port(tmp_path / "port"), understand(llama)
    deployed, _ = open_stage(port, model, None, forced=False, deployed=True).run(*arguments)
    widened, _ = open_stage(port, model, None, forced=False).run(*arguments)
    assert (deployed.logits[..., 3] == 0).all()
    assert (widened.logits[..., 3] != 0).all()
