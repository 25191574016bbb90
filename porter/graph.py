"""The one door to onnx-ir: builds a graph node by node and refuses, at once, what ONNX would refuse later or never.

onnx-ir is a data structure: it takes a misspelt operator without a word. Every node that goes through `Graph` is
held against the ONNX schema of its opset (operator, attributes, number of inputs) and gets its result types from there.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.shape_inference
import onnx_ir as ir

from porter.errors import GraphError, known_names
from porter.schema import OPSET, result_types, schema_of

DOMAIN = "porter"

Dimension = int | str


class Graph:
    """A graph under construction.

    `graph.op.MatMul(a, b)` emits an operator of ONNX's own domain, `graph.call("RMSNorm", x, w, epsilon=1e-6)` a
    function of the neutral dialect. Names follow the scope, so that an error can name the layer.
    """

    def __init__(self, root: ir.Graph | None = None) -> None:
        self.root = (
            root
            if root is not None
            else ir.Graph([], [], nodes=[], name="decoder", opset_imports={"": OPSET, DOMAIN: 1})
        )
        self.op = Operators(self)
        self._emit: Callable[[ir.Node], object] = self.root.append
        self._scope: tuple[str, ...] = ()
        self._counts: dict[str, int] = {}
        self._made: dict[tuple[object, ...], Any] = {}

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[Dimension]) -> ir.Value:
        """Adds a graph input."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.root.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, shape: Sequence[Dimension]) -> None:
        """Makes `value` a graph output; its shape is restated, since Reshape loses symbolic dimensions."""
        value.name = name
        value.shape = ir.Shape(shape)
        self.root.outputs.append(value)

    def parameter(self, name: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.Value:
        """A weight by name: an initializer whose bytes are bound later (`bind`). Asked twice, it is the same value.

        Raises GraphError where the name is taken by a weight of another type or shape.
        """
        if name not in self.root.initializers:
            value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
            value.const_value = _unbound(name, dtype, shape)
            self.root.register_initializer(value)
        known = self.root.initializers[name]
        if known.dtype != dtype or known.shape != tuple(shape):
            raise GraphError(
                f"parameter '{name}' is asked for in two types or shapes", "give each weight a name of its own"
            )
        return known

    def constant(self, data: Any, dtype: ir.DataType) -> ir.Value:
        """A small constant as an initializer of the root graph; equal constants are one value."""
        array = np.asarray(data, dtype=dtype.numpy())
        body = (
            "_".join(str(x) for x in array.ravel())
            if array.size <= 8
            else hashlib.sha256(array.tobytes()).hexdigest()[:16]
        )
        shape = "x".join(str(n) for n in array.shape) or "scalar"
        name = f"const.{dtype.name.lower()}.{shape}.{body}"
        if name not in self.root.initializers:
            tensor = ir.Tensor(array, dtype=dtype, name=name)
            self.root.register_initializer(
                ir.Value(name=name, type=ir.TensorType(dtype), shape=tensor.shape, const_value=tensor)
            )
        return self.root.initializers[name]

    def ints(self, *values: int) -> ir.Value:
        """A one-dimensional int64 constant: a shape, axes, split sizes."""
        return self.constant(values, ir.DataType.INT64)

    def call(
        self,
        function: str,
        inputs: Sequence[ir.Value | None],
        types: Sequence[ir.DataType | None],
        attributes: dict[str, Any],
        domain: str = DOMAIN,
    ) -> Any:
        """Emits a call of a function, of the neutral dialect or a vendor's, with results of these types."""
        given = {name: value for name, value in attributes.items() if value is not None}
        attributes_of_node = ir.convenience.convert_attributes(given)
        node = ir.Node(domain, function, inputs, attributes_of_node, num_outputs=len(types), version=1)
        return self._finish(node, types)

    def once(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        """What `make` emits, emitted the first time only: for what many nodes of the root graph need alike."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def where(self) -> str:
        """The scope as a name."""
        return ".".join(self._scope)

    @contextlib.contextmanager
    def scope(self, *names: str) -> Iterator[None]:
        """Nodes emitted inside carry this name in front."""
        before = self._scope
        self._scope = names
        try:
            yield
        finally:
            self._scope = before

    @contextlib.contextmanager
    def before(self, node: ir.Node) -> Iterator[list[ir.Node]]:
        """Nodes emitted inside stand before `node` and carry its name: how a function is replaced by its body.

        Gives the list that they come into.
        """
        home = node.graph
        if not isinstance(home, ir.Graph):
            raise GraphError(f"node '{node.name}' belongs to no graph", "expand nodes of a finished graph only")
        emitted: list[ir.Node] = []

        def stand_before(new: ir.Node) -> None:
            home.insert_before(node, new)
            emitted.append(new)

        emit, self._emit = self._emit, stand_before
        try:
            with self.scope(node.name or node.op_type):
                yield emitted
        finally:
            self._emit = emit

    def subgraph(self, inputs: Sequence[ir.Value], body: Callable[..., Sequence[ir.Value]]) -> ir.Graph:
        """The body of a Loop or If: `body(*inputs)` gives its outputs and may use any value of the graphs around it."""
        name = f"{self.where()}.body"
        count = self._counts[name] = self._counts.get(name, -1) + 1
        graph = ir.Graph(list(inputs), [], nodes=[], name=f"{name}_{count}")
        emit, self._emit = self._emit, graph.append
        try:
            graph.outputs.extend(body(*inputs))
        finally:
            self._emit = emit
        return graph

    def emit(
        self, op_type: str, inputs: Sequence[ir.Value | None], outputs: int | None, attributes: dict[str, Any]
    ) -> Any:
        """Emits one standard operator, checked against its schema at OPSET.

        Raises GraphError for an operator, attribute or number of inputs that the schema does not have.
        """
        schema = schema_of(op_type)
        unknown = sorted(set(attributes) - set(schema.attributes))
        if unknown:
            raise GraphError(f"{op_type} has no attribute '{unknown[0]}'", known_names(unknown[0], schema.attributes))
        if not schema.min_input <= len(inputs) <= schema.max_input:
            raise GraphError(
                f"{op_type} takes {schema.min_input} to {schema.max_input} inputs, not {len(inputs)}",
                "see the ONNX operator page",
            )
        node = ir.Node(
            "",
            op_type,
            inputs,
            ir.convenience.convert_attributes(attributes),
            num_outputs=outputs or schema.min_output,
            version=OPSET,
        )
        return self._finish(node, result_types(schema, node))

    def _finish(self, node: ir.Node, types: Sequence[ir.DataType | None]) -> Any:
        name = ".".join((*self._scope, node.op_type))
        count = self._counts[name] = self._counts.get(name, -1) + 1
        node.name = f"{name}_{count}" if count else name
        for i, (value, dtype) in enumerate(zip(node.outputs, types, strict=True)):
            value.name = f"{node.name}.{i}" if len(node.outputs) > 1 else node.name
            if dtype is not None:
                value.type = ir.TensorType(dtype)
        self._emit(node)
        return node.outputs[0] if len(node.outputs) == 1 else tuple(node.outputs)


class Operators:
    """`graph.op.X(...)`: the standard operators as methods; `outputs=` where an operator has a variable number."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        def emit(*inputs: ir.Value | None, outputs: int | None = None, **attributes: Any) -> Any:
            return self._graph.emit(op_type, inputs, outputs, attributes)

        return emit


def element_type(value: ir.Value) -> ir.DataType:
    """The element type of a value; GraphError when it is not known."""
    if value.dtype is None:
        raise GraphError(f"the type of '{value.name}' is not known", "give the producing function its result types")
    return value.dtype


def cast(graph: Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """The value at `dtype`: itself where it has it already."""
    return value if element_type(value) == dtype else graph.op.Cast(value, to=dtype)


def width(value: ir.Value, axis: int) -> int:
    """A static dimension; GraphError when it is not one."""
    size = value.shape[axis] if value.shape is not None else None
    if not isinstance(size, int):
        raise GraphError(f"dimension {axis} of '{value.name}' is not static", "declare it where the value is made")
    return size


def replace(node: ir.Node, results: Sequence[ir.Value]) -> None:
    """Puts the results in the node's place; they take over its values' names, so that what is watched stays named."""
    for old, new in zip(node.outputs, results, strict=True):
        if old.shape is not None:
            new.shape = old.shape
        if old.type is not None:
            new.type = old.type
        name, old.name = old.name, None
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name = name
    assert isinstance(node.graph, ir.Graph)
    node.graph.remove(node, safe=True)


def inferred(model: ir.Model) -> ir.Model:
    """A copy of a finished model, checked by ONNX and with the shape of every value that can be known.

    Raises GraphError where a node is malformed or shapes do not fit: the builder alone would not notice.
    """
    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(_without_locations(proto))
        proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(
            f"the graph does not hold together: {str(error).splitlines()[0]}",
            "this is a bug in porter: please report it",
        ) from None
    return ir.from_proto(proto)


def _without_locations(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The checker looks for external files, which are not written yet."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            value = copy.graph.input.add(name=tensor.name)
            value.type.tensor_type.elem_type = tensor.data_type
            value.type.tensor_type.shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=n) for n in tensor.dims)
    kept = [t for t in copy.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """The content of a small constant, None for anything else (weights stay on disk)."""
    tensor = value.const_value if value is not None else None
    if tensor is None or isinstance(tensor, (ir.ExternalTensor, ir.LazyTensor)):
        return None
    return tensor.numpy()


def all_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes of a graph and of the graphs inside it, in order."""
    yield from ir.traversal.RecursiveGraphIterator(graph)


def _unbound(name: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.LazyTensor:
    def fail() -> ir.TensorProtocol:
        raise GraphError(f"weight '{name}' is not bound to bytes yet", "bind the graph before it is read")

    return ir.LazyTensor(fail, dtype=dtype, shape=ir.Shape(shape), name=name)
