"""What holds for every function of the dialect and each of its bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_run import checked, lowered, model_of, normals

from porter.dialect import FUNCTIONS, RMS_NORM, Body, Function
from porter.errors import GraphError
from porter.graph import Graph, all_nodes
from porter.schema import OPSET

BODIES = [(f, body) for f in FUNCTIONS.values() for body in f.bodies]
NAMES = [f"{f.name}-{body.build.__name__}" for f, body in BODIES]
DTYPES = [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16]

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "AllGather": {"group": "tp", "size": 1},
    "AllReduce": {"group": "tp", "size": 1},
    "Attention": {"heads": 4, "groups": 2, "key_dim": 6, "value_dim": 5, "scale": 0.5},
    "CacheUpdate": {},
    "CacheWrite": {"one": 1},
    "Dequantize": {"bits": 8, "shape": (3, 4)},
    "Experts": {"top_k": 2},
    "QuantizedLinear": {"bits": 8, "inputs": 4, "outputs": 3},
    "RMSNorm": {"epsilon": 1e-6},
    "RotaryEmbedding": {"interleaved": 1, "dim": 6},
    "Route": {"experts": 8, "scoring": "sigmoid", "top_k": 2, "normalize": 1, "epsilon": 1e-20, "scale": 2.5}
    | {"groups": 4, "top_groups": 2, "group_score": "top2"},
    "SwiGLU": {},
}


def examples(function: Function, dtype: str) -> list[np.ndarray]:
    """Inputs of a fitting shape, in order."""
    mask, experts = np.ones((1, 1, 3, 5), bool), np.zeros((3, 2), np.int64)
    match function.name:
        case "AllGather" | "AllReduce":
            return normals(dtype, (3, 4))
        case "Attention":
            return [*normals(dtype, (1, 4, 3, 6), (1, 2, 5, 6), (1, 2, 5, 5)), mask]
        case "CacheUpdate":
            return normals(dtype, (1, 2, 3, 4), (1, 2, 1, 4))
        case "CacheWrite":
            return [*normals(dtype, (2, 2, 3, 4), (2, 2, 1, 4)), np.array([[1], [2]]), np.arange(3)]
        case "Dequantize":
            return [np.ones((3, 4), np.int8), *normals("float32", (3,))]
        case "Experts":
            x, gate_up, down = normals(dtype, (3, 4), (8, 10, 4), (8, 4, 5))
            return [x, *normals("float32", (3, 2)), experts, gate_up, down]
        case "QuantizedLinear":
            return [*normals(dtype, (2, 4)), np.ones((3, 4), np.int8), *normals("float32", (3,))]
        case "RMSNorm":
            return normals(dtype, (3, 4), (4,))
        case "RotaryEmbedding":
            return normals(dtype, (1, 2, 3, 6), (1, 1, 3, 3), (1, 1, 3, 3))
        case "Route":
            return normals("float32", (3, 8), (8,))
        case _:
            return normals(dtype, (3, 4), (3, 4))


def model(function: Function, body: Body | Function, dtype: ir.DataType) -> ir.Model:
    """One body of a function, or a call of it, with everything inside expanded; it gives what the function promises."""
    build = body.build if isinstance(body, Body) else body
    arrays = [a.astype(dtype.numpy()) if a.dtype == np.float64 else a for a in examples(function, "float64")]
    result = lowered(model_of(lambda graph, *inputs: build(graph, *inputs, **ATTRIBUTES[function.name]), *arrays))
    if function.name == "Experts":
        result.graph.outputs[0].shape = result.graph.inputs[0].shape
    return result


def test_every_function_has_an_example() -> None:
    assert set(ATTRIBUTES) == set(FUNCTIONS)
    assert all(1 <= len(examples(f, "float32")) <= len(f.inputs) for f in FUNCTIONS.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize(("function", "body"), BODIES, ids=NAMES)
def test_a_body_is_core_operators_of_opset_17(function: Function, body: Body, dtype: ir.DataType) -> None:
    expanded = model(function, body, dtype)
    checked(expanded)
    assert not expanded.functions
    assert {node.domain for node in all_nodes(expanded.graph)} == {""}
    assert all(onnx.defs.has(node.op_type, OPSET) for node in all_nodes(expanded.graph))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize(("function", "body"), BODIES, ids=NAMES)
def test_a_body_gives_the_types_that_a_call_promises(function: Function, body: Body, dtype: ir.DataType) -> None:
    promised = model(function, function, dtype).graph.outputs
    assert [v.dtype for v in model(function, body, dtype).graph.outputs] == [v.dtype for v in promised]


@pytest.mark.parametrize(("function", "body"), BODIES, ids=NAMES)
def test_a_body_that_needs_an_operator_uses_it(function: Function, body: Body) -> None:
    used = {node.op_type for node in all_nodes(model(function, body, ir.DataType.FLOAT).graph)}
    assert set(body.needs) <= used


def test_a_call_is_one_node_of_the_neutral_domain() -> None:
    neutral = model_of(lambda graph, x, w: RMS_NORM(graph, x, w, epsilon=1e-6), *normals("float32", (3, 4), (4,)))
    (node,) = neutral.graph
    assert (node.domain, node.op_type, node.attributes["epsilon"].as_float()) == ("porter", "RMSNorm", 1e-6)


def test_an_unknown_attribute_is_refused_at_once() -> None:
    graph = Graph()
    x = graph.input("x", ir.DataType.FLOAT, [3, 4])
    with pytest.raises(GraphError, match="RMSNorm has no attribute 'epsilom'") as caught:
        RMS_NORM(graph, x, x, epsilom=1e-6)
    assert caught.value.hint == "did you mean 'epsilon'? known: epsilon"


def test_a_missing_attribute_or_input_is_refused_at_once() -> None:
    graph = Graph()
    x = graph.input("x", ir.DataType.FLOAT, [3, 4])
    with pytest.raises(GraphError, match="RMSNorm needs the attribute 'epsilon'"):
        RMS_NORM(graph, x, x)
    with pytest.raises(GraphError, match="RMSNorm takes 2 inputs, not 1") as caught:
        RMS_NORM(graph, x, epsilon=1e-6)
    assert caught.value.hint == "in order: x, weight"


def test_a_function_knows_its_inputs_and_attributes_by_name() -> None:
    assert RMS_NORM.inputs == ("x", "weight")
    assert RMS_NORM.attributes == ("epsilon",)
