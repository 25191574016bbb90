"""The rules of front ends: each fires on a graph that breaks it, and stays silent on a sound one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnx_run
import pytest

from porter.errors import TargetError
from porter.graph import Graph, all_nodes, inferred
from porter.passes.checks import RULES, check
from porter.passes.lower import Lower
from porter.shape import Sizes
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


def backwards(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Slice(x, graph.ints(3), graph.ints(0), graph.ints(1), graph.ints(-1))


def computed_k(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.TopK(x, graph.op.Slice(graph.op.Shape(x), graph.ints(1), graph.ints(2)), axis=-1)[0]


def axes_as_input(graph: Graph, x: ir.Value) -> ir.Value:
    """As from opset 18 on, where the builder does not go."""
    node = ir.Node("", "ReduceMean", [x, graph.ints(2)], num_outputs=1, name="norm.mean")
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(FLOAT), ir.Shape(["B", 4, 1])
    graph.root.append(node)
    return node.outputs[0]


def adding(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.ScatterND(
        x, graph.constant([[0]], INT64), graph.constant(np.ones((1, 4, 6)), FLOAT), reduction="add"
    )


def multiplying(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.ScatterND(
        x, graph.constant([[0]], INT64), graph.constant(np.ones((1, 4, 6)), FLOAT), reduction="mul"
    )


def open_sizes(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Relu(x)


def by_data(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.NonZero(x)


def large(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Slice(x, graph.ints(0), graph.ints(2**63 - 1), graph.ints(2), graph.ints(1))


def bulky(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Add(x, graph.constant(np.ones((4, 6)), FLOAT))


def own_function(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op.Relu(x)


PROMPT = {"num_heads": 2, "input_layout": "BNSD", "pre_tokens": 9, "next_tokens": 9, "scale_value": 0.5}
PROMPT |= {"num_key_value_heads": 2, "inner_precise": 0}


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
    *(
        (vendor("NPUPromptFlashAttention", n, **PROMPT), f"has {n} inputs, where its parser takes 3, 5, 7, 9, 12")
        for n in (4, 6, 13)
    ),
    *(
        (
            vendor("NPUPromptFlashAttention", 5, **{key: value for key, value in PROMPT.items() if key != name}),
            f"NPUPromptFlashAttention does not write the attribute '{name}', which must be there",
        )
        for name in ("pre_tokens", "num_heads", "inner_precise")
    ),
    (
        vendor("NPUPromptFlashAttention", 5, **PROMPT | {"scale_value": 1}),
        "writes the attribute 'scale_value' as int, where its parser reads float",
    ),
    (vendor("NPURotaryPositionEmbedding", 3), "does not write the attribute 'mode'"),
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
    ("slice-steps-positive", backwards, "Slice: Slice with a step that is negative"),
    ("topk-k-constant", computed_k, "TopK: TopK whose k is computed"),
    ("reduce-axes-as-attribute", axes_as_input, "norm.mean: ReduceMean with its axes as an input"),
    ("scatternd-no-reduction", adding, "ScatterND: ScatterND with reduction add"),
    ("scatter-reduction-add-only", multiplying, "ScatterND: ScatterND with reduction mul"),
    ("static-shapes-only", open_sizes, "input 'x' has open sizes: give them with --shape"),
    ("no-data-dependent-shapes", by_data, "NonZero: how much NonZero gives depends on the data"),
    ("int64-fits-int32", large, "Slice: constant '.*' does not fit into int32"),
    ("batch-one", open_sizes, "input 'x' is a batch of 2: give --shape batch=1"),
    ("model-under-limit", bulky, "the graph alone has .* bytes, the most is 64"),
    ("no-functions-but-meanings", own_function, "function own::Twice is not an operator of onnxruntime-musa"),
]
RANKS = {broadcast: 4, vector: 2, cut_vector: 1, by_data: 2}


@pytest.mark.parametrize(("rule", "build", "says"), BROKEN)
def test_a_rule_fires(rule: str, build: Callable[..., ir.Value], says: str) -> None:
    model, frontend = graph_of(build, RANKS.get(build, 3)), only(rule)
    if rule == "custom-operators":
        frontend = only(rule, "cann-atc")
    if rule == "batch-one":
        model.graph.inputs[0].shape = ir.Shape([2, 4, 6])
    if rule == "model-under-limit":
        frontend = replace(frontend, max_model_bytes=64)
    if build is own_function:
        add_function(model)
    # ONNX itself takes an output without a name, and opset 17 no such axes; of vendors it knows nothing
    if build not in (unnamed, axes_as_input) and rule != "custom-operators":
        model = inferred(model)
    with pytest.raises(TargetError, match=says) as refusal:
        check(model, frontend)
    more = "; fixed sizes (--shape) ask for fewer operators" if rule == "known-operators" else ""
    assert refusal.value.hint == f"because it says so (its manual){more}"


def add_function(model: ir.Model) -> None:
    x = ir.Value(name="x")
    node = ir.node("Add", [x, x], outputs=[ir.Value(name="y")])
    body = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 17})
    model.functions[("own", "Twice", "")] = ir.Function("own", "Twice", graph=body, attributes=[])


def fixed() -> ir.Graph:
    """Sizes are numbers, from input to output."""
    decoder = onnx_run.dense()
    graph, parameters = decoder.build(FLOAT, Sizes(1, 4, 16, 4)), decoder.named_parameters()
    onnx_run.fill(graph, parameters, onnx_run.random_weights(parameters), FLOAT)
    return graph


def test_what_a_loop_gathers_depends_on_the_data() -> None:
    model = onnx_run.lowered(onnx_run.built(onnx_run.sparse()), "onnxruntime")
    loops = [node for node in all_nodes(model.graph) if node.op_type == "Loop"]
    assert loops
    loops[0].resize_outputs(len(loops[0].outputs) + 1)
    for node in loops[1:]:
        assert len(node.outputs) == len(node.inputs) - 2
    found = list(RULES["no-data-dependent-shapes"](model, frontends()["onnxruntime"]))
    assert any("Loop gathers what each turn gives" in complaint for complaint in found)


def test_a_graph_of_another_opset_is_refused() -> None:
    with pytest.raises(TargetError, match="onnxruntime takes opset 15, this graph is of opset 17"):
        check(graph_of(open_sizes), replace(frontends()["onnxruntime"], opset=15))


def test_an_assumed_list_says_so() -> None:
    assumed = replace(only("known-operators"), assumed=True)
    with pytest.raises(TargetError, match="unknown operator, of which no list is published: this one is assumed"):
        check(inferred(graph_of(unknown)), assumed)


def test_dimensions_beyond_the_table_s_are_refused() -> None:
    with pytest.raises(TargetError, match=r"Sin: Sin .*: 3 dimensions, more than 2"):
        check(inferred(graph_of(unknown)), replace(only("known-operators"), max_rank=2))


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_silent_on_a_sound_graph(rule: str) -> None:
    if rule == "static-shapes-only":
        model = ir.Model(fixed(), ir_version=8)
    else:
        model = onnx_run.built(onnx_run.latent() if rule != "no-data-dependent-shapes" else onnx_run.dense())
    Lower(frontends()["onnxruntime-musa"])(model)
    check(inferred(model), only(rule))


def test_a_sound_node_of_a_vendor_s_operator_is_passed() -> None:
    for build in (vendor("NPUPromptFlashAttention", 5, **PROMPT), vendor("NPURmsNorm", 2, 2)):
        check(graph_of(build), only("custom-operators", "cann-atc"))


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
