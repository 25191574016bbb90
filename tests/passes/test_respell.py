"""Respelling: what a front end does not take is written in what it does, and what cannot be is refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnx_run
import pytest
from frontend_for import only, standard, without
from onnx_run import NETWORKS, model_of, normals

from porter.errors import TargetError
from porter.graph import all_nodes, inferred
from porter.passes.checks import check
from porter.passes.lower import Lower
from porter.passes.respell import Respell
from porter.target import Check, Frontend

WHOLE = np.array([1, 2, 3]), np.array([3, 2, 1])
FEW = ("Loop", "If", "TopK", "GatherElements", "GatherND", "LessOrEqual", "GreaterOrEqual", "Or", "Not", "And", "Range")
POOR = (
    *FEW,
    "Gemm",
    "Split",
    "Slice",
    "Softmax",
    "Sigmoid",
    "Neg",
    "Sub",
    "Unsqueeze",
    "Squeeze",
    "ReduceMean",
    "Tile",
)


def less_or_equal() -> ir.Model:
    return model_of(lambda graph, a, b: graph.op.LessOrEqual(a, b), *WHOLE)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in all_nodes(model.graph)]


def respelled(model: ir.Model, frontend: Frontend) -> list[str]:
    Respell(frontend)(model)
    return operators(model)


def test_what_is_taken_stays() -> None:
    model = less_or_equal()
    assert not Respell(standard())(model).modified
    assert operators(model) == ["LessOrEqual"]


@pytest.mark.parametrize(
    ("known", "becomes"),
    [
        (["GreaterOrEqual", "Greater", "Not"], ["GreaterOrEqual"]),
        (["Greater", "Not"], ["Greater", "Not"]),
        (["Less", "Not"], ["Less", "Not"]),
        (["Less", "Or", "Equal"], ["Less", "Equal", "Or"]),
        (["Greater", "Equal"], ["Greater", "Equal"]),
    ],
)
def test_the_first_spelling_that_is_taken_is_used(known: list[str], becomes: list[str]) -> None:
    """The last is Not(Greater), where Not is spelled in its turn."""
    model = less_or_equal()
    assert respelled(model, only(known)) == becomes
    (got,) = onnx_run.run(model, {"in0": WHOLE[0], "in1": WHOLE[1]}).values()
    assert got.tolist() == [True, True, False]


def test_what_no_spelling_helps_stays_as_it_was_and_is_refused_by_name() -> None:
    model, bare = less_or_equal(), only(["Greater", "Less"])
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not Respell(bare)(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    bare = replace(bare, checks=(Check("known-operators", "it stops", "its manual"),))
    model.graph.outputs[0].shape = ir.Shape([3])
    with pytest.raises(TargetError, match=r"LessOrEqual: LessOrEqual \(opset 17\): unknown operator") as refusal:
        check(inferred(model), bare)
    assert refusal.value.hint == "it stops (its manual)"


def test_an_operator_that_is_not_taken_for_these_types_is_respelled_too() -> None:
    floats = only(["LessOrEqual", "Cast", "Less", "Greater", "Not"], types={"T": frozenset({"float32", "bool"})})
    known = dict(floats.operators or {})
    known["Greater"] = only(["Greater"]).operators["Greater"]  # type: ignore[index]
    model = less_or_equal()
    assert respelled(model, replace(floats, operators=known)) == ["Greater", "Not"]


def test_what_came_after_the_opset_is_respelled() -> None:
    assert respelled(less_or_equal(), standard(11)) == ["Greater", "Not"]
    maximum = model_of(lambda graph, a, b: graph.op.Max(a, b), *WHOLE)
    assert respelled(maximum, standard(11)) == ["Greater", "Where"]
    assert respelled(
        model_of(lambda graph, a, b: graph.op.Max(a, b), *normals("float32", (3,), (3,))), standard(11)
    ) == ["Max"]


def test_a_result_keeps_its_name_and_the_new_nodes_stand_under_the_old_one() -> None:
    model = less_or_equal()
    Respell(only(["Greater", "Not"]))(model)
    assert [node.name for node in model.graph] == ["LessOrEqual.Greater", "LessOrEqual.Not"]
    assert [value.name for value in model.graph.outputs] == ["out0"]


@pytest.mark.parametrize("lacking", [FEW, POOR], ids=["few", "poor"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_for_a_front_end_that_has_little_computes_the_same(network: str, lacking: tuple[str, ...]) -> None:
    decoder, results = NETWORKS[network](), []
    weights = onnx_run.random_weights(decoder.named_parameters())
    for frontend in (standard(), without(*lacking)):
        decoder = NETWORKS[network]()
        model = onnx_run.built(decoder, weights)
        Lower(frontend)(model)
        modified = Respell(frontend)(model).modified
        assert modified == (frontend.operators is not None)
        assert not {*operators(model)} & {*lacking} or frontend.operators is None
        results.append(onnx_run.run(model, onnx_run.feeds(decoder, onnx_run.tokens(2, 5)))["logits"])
    assert onnx_run.error(results[1], results[0]) < 2e-6
