"""Every spelling against its operator: the same numbers, or numbers as near to the true ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_run import checked, error, model_of, normals, run

from porter.graph import Graph, replace
from porter.passes.respell import Shapes
from porter.passes.spellings import SPELLINGS, Place

Build = Callable[..., Any]

WHOLE = np.array([[-7, 0, 3, 3], [2**40, 5, -1, 8]]), np.array([[-7, 1, 2, 3], [5, 2**40, -1, 9]])
REAL = np.array([[-1.5, np.nan, 2.0, np.inf]], np.float32), np.array([[-1.5, 1.0, np.nan, np.inf]], np.float32)
TRUTH = np.array([True, True, False, False]), np.array([True, False, True, False])
NUMBERS = normals("float32", (3, 4), (3, 4))
INDICES = np.array([[3, 0], [1, 1], [0, 2]])
WIDE = np.linspace(-120, 120, 4001, dtype=np.float32).reshape(1, -1)

# operator → the calls that each of its spellings is held against: (build, arrays); what it does not fit is skipped
CALLS: dict[str, list[tuple[Build, tuple[np.ndarray, ...]]]] = {
    **{
        name: [(lambda graph, a, b, name=name: graph.emit(name, [a, b], 1, {}), arrays) for arrays in (WHOLE, REAL)]
        for name in ("LessOrEqual", "GreaterOrEqual", "Less", "Greater")
    },
    **{name: [(lambda graph, a, b, name=name: graph.emit(name, [a, b], 1, {}), TRUTH)] for name in ("And", "Or")},
    **{name: [(lambda graph, a, b, name=name: graph.emit(name, [a, b], 1, {}), WHOLE)] for name in ("Max", "Min")},
    "Not": [(lambda graph, x: graph.op.Not(x), (TRUTH[0],))],
    "Where": [
        (lambda graph, c, x, y: graph.op.Where(c, x, y), (np.array([True, False, True, False]), *WHOLE)),
    ],
    "Sub": [(lambda graph, a, b: graph.op.Sub(a, b), arrays) for arrays in (WHOLE, REAL, tuple(NUMBERS))],
    "Neg": [(lambda graph, x: graph.op.Neg(x), (array,)) for array in (WHOLE[0], REAL[0], NUMBERS[0])],
    "Reciprocal": [(lambda graph, x: graph.op.Reciprocal(x), (NUMBERS[0],))],
    "Sigmoid": [(lambda graph, x: graph.op.Sigmoid(x), (WIDE,))],
    "Softmax": [(lambda graph, x: graph.op.Softmax(x, axis=-1), (array,)) for array in (WIDE, NUMBERS[0])],
    "ReduceMean": [(lambda graph, x: graph.op.ReduceMean(x, axes=[-1], keepdims=1), (NUMBERS[0],))],
    "Floor": [(lambda graph, x: graph.op.Floor(x), (np.array([-2.5, -2, -0.5, 0, 0.5, 7.9], np.float32),))],
    "Gemm": [
        (lambda graph, a, b: graph.op.Gemm(a, b, transB=1), tuple(NUMBERS)),
        (lambda graph, a, b, c: graph.op.Gemm(a, b, c, transA=1), (*NUMBERS, np.ones(4, np.float32))),
    ],
    "CastLike": [(lambda graph, x, like: graph.op.CastLike(x, like), (WHOLE[0], NUMBERS[0]))],
    "Identity": [(lambda graph, x: graph.op.Identity(x), (array,)) for array in (WHOLE[0], TRUTH[0])],
    "Unsqueeze": [
        (lambda graph, x, axes=axes: graph.op.Unsqueeze(x, graph.ints(*axes)), (NUMBERS[0],)) for axes in ([0], [1, -1])
    ],
    "Squeeze": [
        (lambda graph, x: graph.op.Squeeze(x, graph.ints(1)), (NUMBERS[0].reshape(3, 1, 4, 1),)),
        (lambda graph, x: graph.op.Squeeze(x), (NUMBERS[0].reshape(3, 1, 4, 1),)),
    ],
    "Split": [
        (lambda graph, x: graph.op.Split(x, axis=-1, outputs=2), (NUMBERS[0],)),
        (lambda graph, x: graph.op.Split(x, graph.ints(1, 2), axis=0, outputs=2), (WHOLE[0].reshape(-1)[:3],)),
    ],
    "GatherElements": [(lambda graph, x, i: graph.op.GatherElements(x, i, axis=-1), (NUMBERS[0], INDICES))],
    "Tile": [(lambda graph, x: graph.op.Tile(x, graph.ints(1, 3)), (NUMBERS[0],))],
    "ConstantOfShape": [
        (lambda graph, shape: graph.op.ConstantOfShape(shape, value=ir.tensor([7])), (np.array([2, 3]),)),
        (lambda graph, shape: graph.op.ConstantOfShape(shape), (np.array([2, 3]),)),
    ],
    "Expand": [
        (lambda graph, x, shape: graph.op.Expand(x, shape), (array, np.array([2, 3, 4]))) for array in (*NUMBERS[:1],)
    ],
    "Range": [
        (lambda graph, a, b: graph.op.Range(a, b, graph.constant(1, ir.DataType.INT64)), (np.array(3), np.array(9)))
    ],
}
# what rounds, and by how much in units of the largest: one of float32's steps at most, as the operator itself does
ROUNDS = {"Sigmoid": 1.2e-7, "Softmax": 2e-7, "ReduceMean": 1.2e-7, "Gemm": 2e-7}
CASES = [(name, i, j) for name in SPELLINGS for i in range(len(SPELLINGS[name])) for j in range(len(CALLS[name]))]


def spelled(model: ir.Model, number: int) -> bool:
    """Puts the spelling of this number in the place of the model's last node; False where it does not fit."""
    for value, known in zip(model.graph.outputs, ir.from_proto(checked(model)).graph.outputs, strict=True):
        value.shape = known.shape
    node, graph = list(model.graph)[-1], Graph(model.graph)
    with graph.before(node):
        results = SPELLINGS[node.op_type][number](Place(graph, node, Shapes(model).of), *node.inputs)
    if results is not None:
        replace(node, results if isinstance(results, tuple) else [results])
    return results is not None


def values(model: ir.Model, arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return list(run(model, {f"in{i}": array for i, array in enumerate(arrays)}).values())


@pytest.mark.parametrize(("name", "number", "call"), CASES)
def test_a_spelling_gives_what_its_operator_gives(name: str, number: int, call: int) -> None:
    build, arrays = CALLS[name][call]
    expected, model = values(model_of(build, *arrays), arrays), model_of(build, *arrays)
    if not spelled(model, number):
        pytest.skip("it does not fit this call")
    assert name not in {node.op_type for node in model.graph}
    for got, want in zip(values(model, arrays), expected, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert np.array_equal(got, want, equal_nan=got.dtype.kind == "f") or error(got, want) <= ROUNDS[name]


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_fits_a_call_here(name: str) -> None:
    for number in range(len(SPELLINGS[name])):
        assert any(spelled(model_of(build, *arrays), number) for build, arrays in CALLS[name]), number


@pytest.mark.parametrize("number", range(len(SPELLINGS["Sigmoid"])))
def test_sigmoid_is_as_near_to_float64_as_the_operator(number: int) -> None:
    """Relative to the result the first is, down to what float32 holds; the second is only absolutely."""
    build, arrays = CALLS["Sigmoid"][0]
    true = 1 / (1 + np.exp(-WIDE.astype(np.float64)))
    model = model_of(build, *arrays)
    assert spelled(model, number)
    (own,), (got,) = values(model_of(build, *arrays), arrays), values(model, arrays)
    assert np.abs(got - true).max() <= max(np.abs(own - true).max(), 1.2e-7)
    if number == 0:
        normal = true > 1e-37
        assert (np.abs(got - true) / true)[normal].max() < 1e-6
        assert np.isfinite(got).all()


@pytest.mark.parametrize("number", range(len(SPELLINGS["Softmax"])))
def test_softmax_is_as_near_to_float64_as_the_operator(number: int) -> None:
    (x,) = normals("float32", (64, 512))
    x = x * 8
    build = CALLS["Softmax"][0][0]
    powers = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    true = powers / powers.sum(-1, keepdims=True)
    model = model_of(build, x)
    assert spelled(model, number)
    (own,), (got,) = values(model_of(build, x), (x,)), values(model, (x,))
    assert error(got, true) <= max(2 * error(own, true), 1.2e-7)


@pytest.mark.parametrize("name", ["Sigmoid", "Softmax"])
def test_narrow_numbers_are_spelled_in_float32(name: str) -> None:
    """The exp of 11.1 and more is beyond float16, and the sigmoid of -11.1 is not nought."""
    build, x = CALLS[name][0][0], np.linspace(-14, 14, 57).astype(np.float16).reshape(1, -1)
    model = model_of(build, x)
    assert spelled(model, 0)
    (got,), (own,) = values(model, (x,)), values(model_of(build, x.astype(np.float32)), (x.astype(np.float32),))
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, own, rtol=1e-3, atol=2**-24)
