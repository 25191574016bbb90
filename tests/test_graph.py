"""The one door to onnx-ir: what ONNX would refuse later, or never, is refused at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx_run import FLOAT, INT64, NETWORKS, built, decoder

from porter.blocks.linear import Linear
from porter.blocks.module import Module, ModuleList, Parameter
from porter.blocks.rope import Rope
from porter.errors import GraphError
from porter.graph import Graph, all_nodes, cast, constant_of, element_type, inferred, width

FLOAT16, BFLOAT16, BOOL = ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.BOOL


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def x(graph: Graph) -> ir.Value:
    return graph.input("x", FLOAT, [2, 3])


def finished(graph: Graph, value: ir.Value, *shape: int | str) -> ir.Model:
    graph.output(value, "y", shape)
    return ir.Model(graph.root, ir_version=8)


# --------------------------------------------------------------------------------- one node

BAD_NODES: dict[str, tuple[Callable[[Graph, ir.Value], object], str, str]] = {
    "misspelt": (lambda g, x: g.op.MatMull(x, x), "opset 17 has no operator 'MatMull'", "did you mean 'MatMul'?"),
    "too new": (lambda g, x: g.op.RMSNormalization(x, x), "opset 17 has no operator 'RMSNormalization'", "known:"),
    "attribute": (lambda g, x: g.op.Softmax(x, axes=1), "Softmax has no attribute 'axes'", "did you mean 'axis'?"),
    "an old attribute": (lambda g, x: g.op.Squeeze(x, axes=[0]), "Squeeze has no attribute 'axes'", "known: "),
    "too few inputs": (lambda g, x: g.op.MatMul(x), "MatMul takes 2 to 2 inputs, not 1", "operator page"),
    "too many inputs": (lambda g, x: g.op.Relu(x, x), "Relu takes 1 to 1 inputs, not 2", "operator page"),
}


@pytest.mark.parametrize(("emit", "message", "hint"), BAD_NODES.values(), ids=BAD_NODES.keys())
def test_a_node_that_breaks_its_schema_is_refused_at_once(
    graph: Graph, x: ir.Value, emit: Callable[[Graph, ir.Value], object], message: str, hint: str
) -> None:
    with pytest.raises(GraphError) as caught:
        emit(graph, x)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert list(graph.root) == []


RESULTS: dict[str, tuple[Callable[[Graph, ir.Value], Any], list[ir.DataType]]] = {
    "as its input": (lambda g, x: g.op.Relu(x), [FLOAT]),
    "fixed": (lambda g, x: g.op.Shape(x), [INT64]),
    "bool": (lambda g, x: g.op.Equal(x, x), [BOOL]),
    "as the data, not the indices": (lambda g, x: g.op.Gather(x, g.ints(0)), [FLOAT]),
    "two of them": (lambda g, x: g.op.TopK(x, g.ints(1)), [FLOAT, INT64]),
    "variadic": (lambda g, x: g.op.Split(x, g.ints(1, 2), axis=1, outputs=2), [FLOAT, FLOAT]),
    "by attribute": (lambda g, x: g.op.Cast(x, to=FLOAT16), [FLOAT16]),
    "by a tensor": (lambda g, x: g.op.ConstantOfShape(g.ints(2), value=ir.tensor([1], dtype=INT64)), [INT64]),
}


@pytest.mark.parametrize(("emit", "types"), RESULTS.values(), ids=RESULTS.keys())
def test_results_have_their_types(
    graph: Graph, x: ir.Value, emit: Callable[[Graph, ir.Value], Any], types: list[ir.DataType]
) -> None:
    results = emit(graph, x)
    assert [v.dtype for v in (results if isinstance(results, tuple) else (results,))] == types


def test_a_branch_gives_its_type_to_if_and_a_body_to_loop(graph: Graph, x: ir.Value) -> None:
    branch = graph.subgraph([], lambda: [graph.op.Shape(x)])
    other = graph.subgraph([], lambda: [graph.op.Identity(graph.ints(1, 2))])
    yes = graph.constant(True, BOOL)
    assert graph.op.If(yes, then_branch=branch, else_branch=other, outputs=1).dtype == INT64
    inputs = [ir.Value(name=n, type=ir.TensorType(t)) for n, t in (("i", INT64), ("go_on", BOOL), ("sum", FLOAT))]
    body = graph.subgraph(inputs, lambda i, go_on, total: [graph.op.Identity(go_on), graph.op.Add(total, x)])
    assert graph.op.Loop(graph.constant(3, INT64), yes, x, body=body, outputs=1).dtype == FLOAT


def test_a_subgraph_holds_its_own_nodes(graph: Graph, x: ir.Value) -> None:
    body = graph.subgraph([], lambda: [graph.op.Relu(x)])
    graph.op.Neg(x)
    assert [n.op_type for n in body] == ["Relu"]
    assert [n.op_type for n in graph.root] == ["Neg"]


# --------------------------------------------------------------------------------- names and constants


def test_names_carry_the_scope(graph: Graph, x: ir.Value) -> None:
    with graph.scope("model.layers.3", "mlp"):
        assert graph.op.Relu(x).name == "model.layers.3.mlp.Relu"
        assert graph.op.Relu(x).name == "model.layers.3.mlp.Relu_1"
        assert [v.name for v in graph.op.Split(x, outputs=2)] == [
            "model.layers.3.mlp.Split.0",
            "model.layers.3.mlp.Split.1",
        ]
    assert graph.op.Relu(x).name == "Relu"


def test_scopes_do_not_pile_up_and_end_on_an_error(graph: Graph) -> None:
    with graph.scope("a"):
        with pytest.raises(GraphError), graph.scope("b"):
            graph.op.Nothing()
        assert graph.where() == "a"
    assert graph.where() == ""


def test_equal_constants_are_one_value(graph: Graph) -> None:
    assert graph.ints(1, 2) is graph.constant([1, 2], INT64)
    large = np.arange(100.0)
    assert graph.constant(large, FLOAT) is graph.constant(list(range(100)), FLOAT)
    assert len(graph.root.initializers) == 2


def test_constants_that_differ_in_type_shape_or_content_are_several(graph: Graph) -> None:
    variants = [graph.ints(1), graph.constant([1], FLOAT), graph.constant([1], FLOAT16), graph.constant(1, INT64)]
    variants += [graph.constant([[1]], INT64), graph.ints(1, 1), graph.ints(2), graph.constant([True], BOOL)]
    large = [np.arange(9), np.arange(9).reshape(3, 3), np.arange(9)[::-1]]
    variants += [graph.constant(array, INT64) for array in large]
    assert len({id(v) for v in variants}) == len(variants) == len(graph.root.initializers)


@pytest.mark.parametrize("dtype", [FLOAT, FLOAT16, BFLOAT16, ir.DataType.DOUBLE], ids=lambda d: d.name)
def test_neighbouring_floats_are_different_constants(graph: Graph, dtype: ir.DataType) -> None:
    for bits in np.random.default_rng(0).integers(0x0400, 0x7000, 200):
        wide = np.array([bits, bits + 1], f"u{dtype.numpy().itemsize}")
        a, b = wide.view(dtype.numpy())
        first, second = graph.constant(a, dtype), graph.constant(b, dtype)
        assert first is not second
        assert constant_of(first) == a


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_constant_is_rounded_to_its_type(graph: Graph, dtype: Any) -> None:
    value = constant_of(graph.constant(1 / 3, ir.DataType.from_numpy(np.dtype(dtype))))
    assert value is not None
    assert value == dtype(1 / 3)
    assert float(value) != 1 / 3


# --------------------------------------------------------------------------------- parameters


def test_a_parameter_asked_for_twice_is_one_value(graph: Graph) -> None:
    assert graph.parameter("w", FLOAT, [2]) is graph.parameter("w", FLOAT, [2])
    assert len(graph.root.initializers) == 1


@pytest.mark.parametrize(("dtype", "shape"), [(FLOAT16, [2, 3]), (FLOAT, [3, 2])])
def test_two_parameters_of_one_name_are_refused(graph: Graph, dtype: ir.DataType, shape: list[int]) -> None:
    graph.parameter("w", FLOAT, [2, 3])
    with pytest.raises(GraphError, match="parameter 'w'"):
        graph.parameter("w", dtype, shape)


def test_a_weight_cannot_be_read_before_it_is_bound(graph: Graph) -> None:
    weight = graph.parameter("w", FLOAT, [2])
    assert constant_of(weight) is None
    assert weight.const_value is not None
    with pytest.raises(GraphError, match="weight 'w' is not bound"):
        weight.const_value.numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_no_parameter_of_a_network_vanishes(name: str) -> None:
    """A second graph has them all too: a value belongs to one graph, a parameter to none."""
    network = NETWORKS[name]()
    parameters = {p.name: p.shape for p in network.named_parameters()}
    for _ in range(2):
        held = network.build(FLOAT).initializers.values()
        weights = {v.name: v.shape for v in held if isinstance(v.const_value, ir.LazyTensor)}
        assert weights == parameters


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_built_twice_is_the_same_to_the_byte(name: str) -> None:
    models = [ir.to_proto(built(network)) for network in (NETWORKS[name](), NETWORKS[name]())]
    assert models[0].SerializeToString(deterministic=True) == models[1].SerializeToString(deterministic=True)


class Pair(Module):
    """Two layers, held in whatever way."""

    def __init__(self, hold: Callable[[list[Linear]], Any]) -> None:
        self.layers = hold([Linear(2, 3), Linear(2, 3)])


@pytest.mark.parametrize("hold", [list, tuple, lambda layers: dict(enumerate(layers))], ids=["list", "tuple", "dict"])
def test_a_plain_list_of_modules_is_refused(hold: Callable[[list[Linear]], Any]) -> None:
    """Its parameters would vanish without a word."""
    with pytest.raises(GraphError, match=r"layers is a plain (list|tuple|dict) of modules") as caught:
        list(Pair(hold).parameters())
    assert caught.value.hint == "use ModuleList"


def test_a_list_of_parameters_is_refused_too() -> None:
    with pytest.raises(GraphError, match="layers is a plain list"):
        list(Pair(lambda layers: [layer.weight for layer in layers]).parameters())


def test_a_module_list_numbers_its_modules() -> None:
    pair = Pair(ModuleList)
    assert [p.name for p in pair.parameters("model")] == ["model.layers.0.weight", "model.layers.1.weight"]
    assert [layer.path for layer in pair.layers] == ["model.layers.0", "model.layers.1"]


class Clash(Module):
    """An MLP whose two parameters would both be called `weight`."""

    def __init__(self) -> None:
        self.weight = Parameter((2,))
        self.inner = Linear(2, 2)
        self.inner.transparent = True


def test_two_parameters_that_would_get_one_name_are_refused() -> None:
    network = decoder(lambda n: Module(), lambda n: Clash(), Rope(4, 1e4, 8))
    with pytest.raises(GraphError, match=r"two parameters are called 'model\.layers\.0\.mlp\.weight'"):
        network.named_parameters()


# --------------------------------------------------------------------------------- small questions


def test_cast_leaves_alone_what_has_the_type(graph: Graph, x: ir.Value) -> None:
    assert cast(graph, x, FLOAT) is x
    assert cast(graph, x, FLOAT16).dtype == FLOAT16


def test_a_type_or_size_that_is_not_known_is_an_error() -> None:
    value = ir.Value(name="v", shape=ir.Shape(["batch", 4]))
    with pytest.raises(GraphError, match="the type of 'v' is not known"):
        element_type(value)
    assert width(value, 1) == 4
    with pytest.raises(GraphError, match="dimension 0 of 'v' is not static"):
        width(value, 0)


def test_an_output_restates_its_shape(graph: Graph) -> None:
    """Reshape would leave nothing of a symbolic dimension."""
    value = graph.op.Reshape(graph.input("x", FLOAT, ["batch", 3]), graph.ints(-1, 3))
    model = inferred(finished(graph, value, "batch", 3))
    assert [str(d) for d in model.graph.outputs[0].shape or ()] == ["batch", "3"]


# --------------------------------------------------------------------------------- a finished graph


def test_every_shape_that_can_be_known_is_inferred(graph: Graph, x: ir.Value) -> None:
    product = graph.op.MatMul(x, graph.parameter("w", FLOAT, [3, 5]))
    model = finished(graph, graph.op.Relu(product), 2, 5)
    weight = ir.ExternalTensor("w.bin", 0, 60, FLOAT, shape=ir.Shape([3, 5]), name="w")
    graph.root.initializers["w"].const_value = weight
    node = next(all_nodes(inferred(model).graph))
    assert list(node.outputs[0].shape or ()) == [2, 5]
    assert product.shape is None  # the model itself is left alone


def test_shapes_that_do_not_fit_are_refused(graph: Graph, x: ir.Value) -> None:
    model = finished(graph, graph.op.MatMul(x, graph.input("z", FLOAT, [4, 5])), 2, 5)
    with pytest.raises(GraphError, match="does not hold together"):
        inferred(model)


def test_a_shape_that_is_claimed_wrongly_is_refused(graph: Graph, x: ir.Value) -> None:
    with pytest.raises(GraphError, match="does not hold together"):
        inferred(finished(graph, graph.op.Relu(x), 2, 4))


def test_types_that_do_not_fit_are_refused(graph: Graph, x: ir.Value) -> None:
    model = finished(graph, graph.op.Add(x, graph.input("z", FLOAT16, [2, 3])), 2, 3)
    with pytest.raises(GraphError, match="does not hold together"):
        inferred(model)


def test_a_value_from_nowhere_is_refused(graph: Graph, x: ir.Value) -> None:
    nowhere = ir.Value(name="nowhere", type=ir.TensorType(FLOAT), shape=ir.Shape([2, 3]))
    with pytest.raises(GraphError, match="nowhere"):
        inferred(finished(graph, graph.op.Add(x, nowhere), 2, 3))


def test_two_values_of_one_name_are_refused(graph: Graph, x: ir.Value) -> None:
    first, second = graph.op.Relu(x), graph.op.Neg(x)
    second.name = first.name
    with pytest.raises(GraphError, match="does not hold together"):
        inferred(finished(graph, graph.op.Add(first, second), 2, 3))


def test_nodes_go_before_a_node_of_a_graph_only(graph: Graph, x: ir.Value) -> None:
    node = graph.op.Relu(x).producer()
    with graph.before(node):
        assert graph.op.Neg(x).name == "Relu.Neg"
    assert [n.op_type for n in graph.root] == ["Neg", "Relu"]
    with (
        pytest.raises(GraphError, match="'lost' belongs to no graph"),
        graph.before(ir.Node("", "Relu", [x], name="lost")),
    ):
        pass
