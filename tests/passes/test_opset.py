"""Older opsets and other spellings: the same numbers, or a refusal that names the node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnx_run
import pytest
import takers

from porter.errors import TargetError
from porter.graph import Graph, all_nodes
from porter.passes import passes
from porter.passes.opset import Opset
from porter.passes.respell import Respell
from porter.port import lower
from porter.shape import Sizes
from porter.target import Frontend, frontends

NETWORKS = {"dense": onnx_run.dense, "sparse": onnx_run.sparse, "latent": onnx_run.latent}
OLD = sorted(name for name, found in frontends().items() if "opset" in found.passes)
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def written_for(frontend: str, network: str) -> ir.Model:
    """Through all passes of the front end; its rules are not asked."""
    decoder = NETWORKS[network]()
    model = onnx_run.built(decoder, onnx_run.random_weights(decoder.named_parameters()))
    for name in frontends()[frontend].passes:
        passes()[name](frontends()[frontend])(model)
    return model


def at(opset: int, without: str = "") -> Frontend:
    """A front end with the whole standard at an opset, but for some operators."""
    operators = {n: r for n, r in (frontends()["cann-atc"].operators or {}).items() if n not in without.split()}
    operators = {
        n: tuple(replace(row, opsets=((1, 18),), types={}, ranks=None) for row in r) for n, r in operators.items()
    }
    return replace(frontends()["cann-atc"], opset=opset, operators=operators)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("frontend", sorted({*OLD} & {*takers.OPEN}))
def test_an_older_opset_computes_the_same(frontend: str, network: str) -> None:
    model, decoder = written_for(frontend, network), NETWORKS[network]()
    assert model.graph.opset_imports[""] == frontends()[frontend].opset
    feeds = onnx_run.feeds(decoder, onnx_run.tokens(2, 5))
    expected = onnx_run.run(written_for("onnxruntime", network), feeds)["logits"]
    np.testing.assert_allclose(onnx_run.run(model, feeds)["logits"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("frontend", sorted(set(frontends()) - {"cann-atc-310p"}))
def test_every_front_end_takes_every_network_at_fixed_sizes(frontend: str, network: str) -> None:
    """By its own rules; the 310P's is in float16, which these networks of a test are not."""
    decoder = NETWORKS[network]()
    graph, parameters = decoder.build(ir.DataType.FLOAT, Sizes(1, 4, 16, 4)), decoder.named_parameters()
    onnx_run.fill(graph, parameters, onnx_run.random_weights(parameters), ir.DataType.FLOAT)
    model, _ = lower(graph, frontends()[frontend])
    assert model.graph.opset_imports[""] == frontends()[frontend].opset


def reduced(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.ReduceSum(graph.op.Unsqueeze(x, graph.ints(0)), graph.ints(-1), keepdims=1)


def cut(graph: Graph, x: ir.Value) -> ir.Value:
    first, _ = graph.op.Split(x, graph.ints(1, 3), axis=-1, outputs=2)
    return graph.op.Squeeze(first, graph.ints(2))


def soft(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Softmax(x, axis=2)


@pytest.mark.parametrize("build", [reduced, cut, soft])
def test_what_became_an_input_is_an_attribute_again(build: Callable[[Graph, ir.Value], ir.Value]) -> None:
    new, old = onnx_run.model_of(build, X), onnx_run.model_of(build, X)
    Opset(at(11))(old)
    assert old.graph.opset_imports[""] == 11
    assert all(value.uses() for value in old.graph.initializers.values())
    expected, got = (onnx_run.run(model, {"in0": X})["out0"] for model in (new, old))
    np.testing.assert_array_equal(got, expected)


def computed(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Unsqueeze(x, graph.op.Slice(graph.op.Shape(x), graph.ints(0), graph.ints(1)))


def over_first(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Softmax(x, axis=0)


def adding(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.ScatterND(x, graph.constant([[0]], ir.DataType.INT64), x, reduction="add")


def new(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Trilu(x)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (computed, "Unsqueeze cannot be written at opset 11: it had axes as an attribute, here they are computed"),
        (over_first, "Softmax cannot be written at opset 11: it went over all axes from the given one on"),
        (adding, "ScatterND cannot be written at opset 11: it had no reduction"),
        (new, "Trilu cannot be written at opset 11: it was not there yet"),
    ],
)
def test_what_has_no_older_form_is_refused_by_name(build: Callable[[Graph, ir.Value], ir.Value], says: str) -> None:
    with pytest.raises(TargetError, match=says) as refusal:
        Opset(at(11))(onnx_run.model_of(build, X))
    assert refusal.value.hint


# ------------------------------------------------------------------------------ other spellings

COMPARED = np.array([[1, 5, 3], [2, 2, 9]], np.int64), np.array([[1, 4, 3], [3, 2, 8]], np.int64)


@pytest.mark.parametrize("op_type", ["LessOrEqual", "GreaterOrEqual"])
@pytest.mark.parametrize("without", ["LessOrEqual", "GreaterOrEqual", "LessOrEqual GreaterOrEqual"])
def test_a_comparison_is_spelled_by_another(op_type: str, without: str) -> None:
    model = onnx_run.model_of(lambda graph, a, b: getattr(graph.op, op_type)(a, b), *COMPARED)
    expected = onnx_run.run(model, {"in0": COMPARED[0], "in1": COMPARED[1]})["out0"]
    assert Respell(at(17, without))(model).modified == (op_type in without)
    assert not {node.op_type for node in all_nodes(model.graph)} & {*without.split()}
    got = onnx_run.run(model, {"in0": COMPARED[0], "in1": COMPARED[1]})["out0"]
    np.testing.assert_array_equal(got, expected)


def test_floats_without_the_mirrored_comparison_stay_to_be_refused() -> None:
    model = onnx_run.model_of(lambda graph, a, b: graph.op.LessOrEqual(a, b), X, X)
    assert not Respell(at(17, "LessOrEqual GreaterOrEqual"))(model).modified
    assert [node.op_type for node in model.graph] == ["LessOrEqual"]
