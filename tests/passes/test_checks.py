"""The rules of front ends: each fires on a graph that breaks it, and stays silent on a sound one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnx_run
import pytest

from porter.errors import TargetError
from porter.graph import Graph, inferred
from porter.passes.checks import RULES, check
from porter.passes.lower import Lower
from porter.target import Check, Frontend, frontends

FLOAT, INT64, DOUBLE = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.DOUBLE


def only(rule: str, frontend: str = "onnxruntime-musa") -> Frontend:
    """A front end that asks for this rule alone."""
    return replace(frontends()[frontend], checks=(Check(rule, "because it says so", "its manual"),))


def graph_of(build: Callable[[Graph, ir.Value], ir.Value], rank: int = 3) -> ir.Model:
    graph = Graph()
    graph.output(build(graph, graph.input("x", FLOAT, ["B", 4, 6])), "y", [f"d{n}" for n in range(rank)])
    return ir.Model(graph.root, ir_version=8)


def unnamed(graph: Graph, x: ir.Value) -> ir.Value:
    values, rest = graph.op.TopK(x, graph.ints(2), axis=-1)
    rest.name = ""
    return values


def empty(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Concat(x, graph.constant(np.zeros((1, 4, 0)), FLOAT), axis=-1)


def double(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Cast(graph.op.Cast(x, to=DOUBLE), to=FLOAT)


def broadcast(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.MatMul(graph.op.Unsqueeze(x, graph.ints(0)), graph.constant(np.ones((3, 1, 6, 2)), FLOAT))


def vector(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.MatMul(x, graph.constant(np.ones(6), FLOAT))


def negative(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Gather(x, graph.constant([-1], INT64), axis=1)


def striding(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Slice(x, graph.ints(0), graph.ints(6), graph.ints(2), graph.ints(2))


def cut_vector(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Slice(graph.op.Shape(x), graph.ints(0), graph.ints(1), graph.ints(0), graph.ints(1))


def unknown(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Sin(x)


PROMPT = {"num_heads": 2, "input_layout": "BNSD", "pre_tokens": 9, "next_tokens": 9, "scale_value": 0.5}


def vendor(name: str, inputs: int, outputs: int = 1, **attributes: object) -> Callable[[Graph, ir.Value], ir.Value]:
    """A node of an operator of the vendor's, with x as often as it is asked for."""

    def build(graph: Graph, x: ir.Value) -> ir.Value:
        results = graph.call(name, [x] * inputs, [FLOAT] * outputs, attributes, "npu")
        return results[0] if outputs > 1 else results

    return build


BROKEN_VENDOR = [
    (vendor("NPURmsNorm", 2, 2, epsilon=1e-5), r"npu::NPURmsNorm writes the attribute 'epsilon', which .*reads none"),
    (vendor("NPURmsNorm", 3, 2), "npu::NPURmsNorm has 3 inputs, where its parser takes 2"),
    (vendor("NPURmsNorm", 2, 3), "npu::NPURmsNorm has 3 outputs of 2"),
]

BROKEN = [
    ("known-operators", unknown, r"Sin: Sin \(opset 17\): unknown operator"),
    *(("custom-operators", build, says) for build, says in BROKEN_VENDOR),
    ("no-empty-names", unnamed, "TopK has an input or output without a name"),
    ("no-zero-size-constants", empty, "has no elements"),
    ("no-float64", double, "Cast gives float64"),
    ("matmul-batch", broadcast, "batch dimensions"),
    ("matmul-batch", vector, "one dimension only"),
    ("gather-indices-non-negative", negative, "Gather with a negative index"),
    ("slice-last-axis-step-one", striding, "step on the last axis"),
    ("slice-last-axis-step-one", cut_vector, "Slice of a vector"),
]


@pytest.mark.parametrize(("rule", "build", "says"), BROKEN)
def test_a_rule_fires(rule: str, build: Callable[..., ir.Value], says: str) -> None:
    model = graph_of(build, {broadcast: 4, vector: 2, cut_vector: 1}.get(build, 3))
    if build is not unnamed and rule != "custom-operators":  # ONNX itself takes an output without a name
        model = inferred(model)
    with pytest.raises(TargetError, match=says) as refusal:
        check(model, only(rule, "cann-atc" if rule == "custom-operators" else "onnxruntime-musa"))
    assert refusal.value.hint == "because it says so (its manual)"


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_silent_on_a_sound_graph(rule: str) -> None:
    model = onnx_run.built(onnx_run.latent())
    Lower(frontends()["onnxruntime-musa"])(model)
    check(inferred(model), only(rule))


def test_every_rule_has_a_graph_that_breaks_it() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(RULES)


@pytest.mark.parametrize("frontend", sorted(frontends()))
def test_the_rules_that_a_front_end_names_are_there(frontend: str) -> None:
    assert {c.name for c in frontends()[frontend].checks} <= set(RULES)


def test_an_unknown_rule_is_refused_with_the_nearest_first() -> None:
    with pytest.raises(TargetError, match="no check is called 'no-float46'") as refusal:
        check(graph_of(unknown), only("no-float46"))
    assert refusal.value.hint.startswith("did you mean 'no-float64'?")


def test_a_type_that_is_not_taken_is_named() -> None:
    model = graph_of(lambda graph, x: graph.op.Expand(graph.op.Shape(x), graph.ints(1)), rank=1)
    with pytest.raises(TargetError, match=r"Expand: Expand \(opset 17\): dtype int64 for input0 not in"):
        check(inferred(model), only("known-operators", "cann-atc"))
