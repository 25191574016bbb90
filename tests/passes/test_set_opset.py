"""Down to an older opset: the same numbers, and nothing in the graph that the opset does not have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnx_run
import pytest
from frontend_for import standard
from onnx_run import NETWORKS, model_of, normals

from porter.dialect import QUANTIZED_LINEAR, RMS_NORM
from porter.errors import TargetError
from porter.graph import Graph, all_nodes, inferred
from porter.passes.checks import known_operators
from porter.passes.lower import Lower
from porter.passes.respell import Respell
from porter.passes.set_opset import SetOpset
from porter.quantize import FORMS
from porter.target import Frontend, frontends

OPSETS = [11, 13, 15, 16]
NARROW = ir.DataType.BFLOAT16


def brought(model: ir.Model, frontend: Frontend) -> ir.Model:
    for step in (Lower, Respell, SetOpset):
        step(frontend)(model)
    return model


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_at_an_older_opset_computes_the_same(network: str, opset: int) -> None:
    decoder, results = NETWORKS[network](), []
    weights = onnx_run.random_weights(decoder.named_parameters())
    for frontend in (standard(), standard(opset)):
        decoder = NETWORKS[network]()
        model = brought(onnx_run.built(decoder, weights), frontend)
        assert model.graph.opset_imports == {"": frontend.opset}
        assert list(known_operators(inferred(model), frontend)) == []
        results.append(onnx_run.run(model, onnx_run.feeds(decoder, onnx_run.tokens(2, 5)))["logits"])
    assert np.array_equal(results[1], results[0])


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("form", ["int8", "int4:32:asymmetric"])
def test_codes_at_an_older_opset_mean_the_same(form: str, opset: int) -> None:
    """DequantizeLinear takes an axis from opset 13 on, so that below it the arithmetic is written out."""
    quantization = FORMS[form]
    x, weight = normals("float32", (3, 64), (8, 64))
    arrays = quantization.encode(weight, "weight")

    def build(graph: Graph, x: ir.Value, *stored: ir.Value) -> ir.Value:
        form = {"bits": quantization.bits, "block": quantization.block}
        return QUANTIZED_LINEAR(graph, x, *stored, inputs=64, outputs=8, **form)

    given = {f"in{i}": array for i, array in enumerate((x, *arrays))}
    results = [onnx_run.run(brought(model_of(build, x, *arrays), standard(n)), given)["out0"] for n in (17, opset)]
    assert onnx_run.error(results[1], results[0]) < 1e-6


@pytest.mark.parametrize("opset", OPSETS)
def test_what_was_an_attribute_is_one_again(opset: int) -> None:
    def build(graph: Graph, x: ir.Value) -> ir.Value:
        first, _ = graph.op.Split(graph.op.Unsqueeze(x, graph.ints(0)), graph.ints(1, 2), axis=1, outputs=2)
        return graph.op.ReduceSum(graph.op.Squeeze(first, graph.ints(0)), graph.ints(-1), keepdims=1)

    (x,) = normals("float32", (3, 4))
    model = brought(model_of(build, x), standard(opset))
    found = {n.op_type: sorted(n.attributes) for n in model.graph}
    if opset < 13:
        assert found["Split"] == ["axis", "split"]
        assert found["ReduceSum"] == ["axes", "keepdims"]
        assert found["Squeeze"] == found["Unsqueeze"] == ["axes"]
        assert not model.graph.initializers, "nobody reads the constants any more"
    else:
        assert all("axes" not in names and "split" not in names for names in found.values())
    np.testing.assert_allclose(onnx_run.run(model, {"in0": x})["out0"], x[:1].sum(-1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("network", ["sparse", "absorbed"])
def test_graphs_inside_are_brought_down_too(network: str) -> None:
    model = brought(onnx_run.built(NETWORKS[network]()), standard(11))
    inside = [n for n in all_nodes(model.graph) if n.graph is not model.graph]
    assert inside
    for node in inside:
        schema = onnx.defs.get_schema(node.op_type, 11)
        assert schema.min_input <= len(node.inputs) <= schema.max_input
        assert set(node.attributes) <= set(schema.attributes)


def test_what_the_opset_does_not_have_is_refused_by_name() -> None:
    (x,) = normals("float32", (3, 4))
    with pytest.raises(TargetError, match="HardSwish: HardSwish: ONNX has no such operator at opset 13") as refusal:
        SetOpset(standard(13))(model_of(lambda graph, x: graph.op.HardSwish(x), x))
    assert "passes/spellings" in refusal.value.hint
    with pytest.raises(TargetError, match="Gemm: Gemm: ONNX has it not for bfloat16 at opset 11"):
        SetOpset(standard(11))(model_of(lambda graph, x: graph.op.Gemm(x, x, transB=1), x.astype(NARROW.numpy())))


def test_what_would_mean_something_else_is_refused_by_name() -> None:
    """An older parser takes no notice of an attribute that it does not know, or goes over other axes."""
    codes, scale = np.ones((3, 4), np.int8), np.ones(3, np.float32)
    with pytest.raises(TargetError, match="DequantizeLinear: ONNX has no axis of it at opset 11"):
        SetOpset(standard(11))(model_of(lambda graph, c, s: graph.op.DequantizeLinear(c, s, axis=0), codes, scale))
    (x,) = normals("float32", (3, 4, 5))
    with pytest.raises(TargetError, match="Softmax: it goes over all axes from the given one on at opset 11"):
        SetOpset(standard(11))(model_of(lambda graph, x: graph.op.Softmax(x, axis=1), x))
    model = model_of(lambda graph, x: graph.op.Softmax(x), x)
    SetOpset(standard(11))(model)
    assert [node.attributes["axis"].value for node in model.graph] == [-1]


def test_axes_that_are_computed_are_refused() -> None:
    x, axes = normals("float32", (3, 4))[0], np.array([0])
    with pytest.raises(TargetError, match="ReduceSum takes its axes from a computed value, which opset 11 cannot say"):
        SetOpset(standard(11))(model_of(lambda graph, x, axes: graph.op.ReduceSum(x, axes), x, axes))


def test_nothing_is_brought_up() -> None:
    (x,) = normals("float32", (3, 4))
    with pytest.raises(TargetError, match="porter writes opset 17, and its 'opset' says 18"):
        SetOpset(standard(18))(model_of(lambda graph, x: graph.op.Exp(x), x))


def test_a_meaning_is_brought_down_with_the_graph_and_still_runs() -> None:
    """A vendor's operator in a graph of opset 15: ONNX wants a function to speak the graph's opset."""
    x, weight = normals("float32", (3, 8), (8,))
    atc, results = frontends()["cann-atc"], []
    for opset in (17, 15):
        model = model_of(lambda graph, x, w: RMS_NORM(graph, x, w, epsilon=1e-6), x, weight)
        brought(model, replace(atc, opset=opset))
        assert [f.opset_imports[""] for f in model.functions.values()] == [opset]
        results.append(onnx_run.run(model, {"in0": x, "in1": weight})["out0"])
    assert np.array_equal(*results)
