"""Small graphs and tiny networks on ONNX Runtime: each is checked by ONNX in full, then run as it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.shape_inference
import onnx_ir as ir
import onnxruntime

from porter.blocks.attention import GroupedQueryAttention, NormedGroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.latent_attention import AbsorbedHeads, ExpandedHeads, LatentAttention, LowRankQuery
from porter.blocks.mlp import GatedMLP
from porter.blocks.module import Module, Parameter
from porter.blocks.moe import BiasedRouter, Experts, Float32Router, MixtureOfExperts, Router, SharedMixtureOfExperts
from porter.blocks.rope import DynamicRope, Rope
from porter.blocks.step import GrowingStep
from porter.graph import Graph
from porter.passes.lower import Lower
from porter.target import frontends

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64
DTYPES = {"float32": FLOAT, "float16": ir.DataType.FLOAT16}
TOLERANCE = {"float32": 1e-6, "float16": 4e-3}  # of `error`, for one function of the dialect

Build = Callable[..., Any]  # (graph, *values) → a value or several


def normals(dtype: str, *shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Random arrays, one for each shape."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def error(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, in units of the largest that is expected; infinite where a value is not a number."""
    assert got.shape == expected.shape
    difference = np.abs(got.astype(np.float64) - expected).max() / max(np.abs(expected).max(), 1e-30)
    return float(difference) if np.isfinite(difference) else float("inf")


# --------------------------------------------------------------------------------- graphs


def model_of(build: Build, *arrays: np.ndarray) -> ir.Model:
    """A model of `build(graph, *inputs)` with inputs in0, in1 … like these arrays, and outputs out0, out1 …"""
    graph = Graph()
    inputs = [graph.input(f"in{i}", ir.DataType.from_numpy(a.dtype), a.shape) for i, a in enumerate(arrays)]
    results = build(graph, *inputs)
    for i, value in enumerate(results if isinstance(results, tuple | list) else [results]):
        value.name = f"out{i}"
        graph.root.outputs.append(value)
    return ir.Model(graph.root, ir_version=8)


def lowered(model: ir.Model, frontend: str = "onnxruntime") -> ir.Model:
    """The model, changed: no function of the neutral dialect is left in it."""
    Lower(frontends()[frontend])(model)
    return model


def checked(model: ir.Model) -> onnx.ModelProto:
    """The model as ONNX, which has no complaint about it, with every shape inferred."""
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model), check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every output by name, without any of ONNX Runtime's own rewriting."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(checked(model).SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def compute(build: Build, *arrays: np.ndarray) -> Any:
    """What `build` computes from these arrays: one array, or a list where it has several results."""
    results = list(run(lowered(model_of(build, *arrays)), {f"in{i}": a for i, a in enumerate(arrays)}).values())
    return results[0] if len(results) == 1 else results


def attend(block: Module, rope: Rope, x: np.ndarray, past: Sequence[np.ndarray], mask: np.ndarray) -> list[np.ndarray]:
    """What an attention block gives for x [batch, sequence, width], with random weights, and its cache behind it."""
    batch, sequence, hidden = x.shape
    positions = np.maximum(mask.cumsum(1)[:, -sequence:] - 1, 0)
    module = rope.module()
    parameters = [*block.parameters("attention"), *module.parameters("rope")]

    def build(graph: Graph, ids: ir.Value, mask: ir.Value, x: ir.Value, *past: ir.Value) -> list[ir.Value]:
        step = GrowingStep(graph, FLOAT, ids, ids, mask)
        mixed, cache = block(step, x, module(step), past)
        fill(graph.root, parameters, random_weights(parameters), FLOAT)
        return [mixed, *cache]

    mixed, *cache = compute(build, positions, mask, x.reshape(-1, hidden), *past)
    return [mixed.reshape(batch, sequence, -1), *cache]


# --------------------------------------------------------------------------------- networks

HIDDEN, VOCABULARY, POSITIONS = 16, 29, 64


def decoder(attention: Callable[[int], Any], mlp: Callable[[int], Any], rope: Rope, **options: Any) -> Decoder:
    """A decoder of two layers, each made by number."""
    epsilon = options.pop("epsilon", 1e-6)
    layers = [DecoderLayer(HIDDEN, epsilon, attention(n), mlp(n)) for n in range(2)]
    return Decoder(VOCABULARY, HIDDEN, epsilon, layers, rope, **{"tied": False, **options})


def dense(*, tied: bool = True, rope: Rope | None = None, epsilon: float = 1e-5) -> Decoder:
    """Grouped queries with biases, the second layer through a window; a gated MLP."""
    rope = rope or Rope(6, 1e4, POSITIONS)
    return decoder(
        lambda n: GroupedQueryAttention(HIDDEN, 4, 2, 6, qkv_bias=True, window=[None, 3][n]),
        lambda n: GatedMLP(HIDDEN, 20),
        rope,
        tied=tied,
        epsilon=epsilon,
    )


def sparse() -> Decoder:
    """Normalised queries; a softmax router in each of its two forms."""
    routers = [Router(HIDDEN, 8, 3, normalize=True), Float32Router(HIDDEN, 8, 3, 1.5, groups=4, top_groups=2)]
    return decoder(
        lambda n: NormedGroupedQueryAttention(HIDDEN, 4, 1, 6, epsilon=1e-6),
        lambda n: MixtureOfExperts(routers[n], Experts(HIDDEN, 6, 8, 3)),
        Rope(6, 1e4, POSITIONS),
    )


def latent(form: type[AbsorbedHeads | ExpandedHeads] = AbsorbedHeads) -> Decoder:
    """Latent attention; a dense layer, then a biased router with groups and a shared expert."""

    def mlp(n: int) -> Any:
        router = BiasedRouter(HIDDEN, 8, 3, 2.5, 4, 2, normalize=True)
        shared = SharedMixtureOfExperts(router, Experts(HIDDEN, 6, 8, 3), GatedMLP(HIDDEN, 6))
        return [GatedMLP(HIDDEN, 20), shared][n]

    def attention(n: int) -> LatentAttention:
        query = LowRankQuery(HIDDEN, 10, 3 * (5 + 4), bias=False)
        return LatentAttention(HIDDEN, query, form(3, 7, 5, 4, 6), 9**-0.5, interleaved=True, bias=False)

    return decoder(attention, mlp, Rope(4, 1e4, POSITIONS))


NETWORKS: dict[str, Callable[[], Decoder]] = {
    "dense": dense,
    "dynamic": lambda: dense(tied=False, rope=DynamicRope(6, 1e4, 4, factor=2.0)),
    "sparse": sparse,
    "absorbed": latent,
    "expanded": lambda: latent(ExpandedHeads),
}


def random_weights(parameters: Iterable[Parameter], seed: int = 0) -> dict[str, np.ndarray]:
    """Content for every parameter in float32: its table where it has one, else random, norms and biases around one."""
    rng, content = np.random.default_rng(seed), {}
    for p in parameters:
        values = rng.standard_normal(p.shape) * 0.3 + (len(p.shape) == 1)
        content[p.name] = (p.table() if p.table else values).astype(np.float32)
    return content


def fill(
    graph: ir.Graph, parameters: Iterable[Parameter], weights: Mapping[str, np.ndarray], port: ir.DataType
) -> None:
    """Put the weights into the graph of a port of this dtype, reshaped as the parameters ask for."""
    for p in parameters:
        array = weights[p.name].reshape(p.shape).astype(p.dtype(port).numpy())
        graph.initializers[p.name].const_value = ir.tensor(array, name=p.name)


def built(network: Decoder, weights: Mapping[str, np.ndarray] | None = None, dtype: str = "float32") -> ir.Model:
    """The network's neutral model with its weights in it, random ones by default."""
    graph, parameters = network.build(DTYPES[dtype]), network.named_parameters()
    fill(graph, parameters, weights or random_weights(parameters), DTYPES[dtype])
    return ir.Model(graph, ir_version=8)


def feeds(network: Decoder, tokens: np.ndarray, past: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """A call with these tokens [batch, sequence] behind the cache that an earlier call gave, or behind none."""
    batch, sequence = tokens.shape
    names = [(f"{n}.{e.name}", e) for n, layer in enumerate(network.cache()) for e in layer]
    empty = {f"present.{name}": np.zeros((batch, e.heads, 0, e.width), np.float32) for name, e in names}
    cache = {f"past_key_values.{name}": (past or empty)[f"present.{name}"] for name, _ in names}
    total = sequence + next(iter(cache.values())).shape[2]
    positions = np.broadcast_to(np.arange(total - sequence, total), tokens.shape)
    mask = np.ones((batch, total), np.int64)
    return {"input_ids": tokens, "position_ids": positions, "attention_mask": mask, **cache}


def tokens(batch: int, sequence: int) -> np.ndarray:
    """Random token ids."""
    return np.random.default_rng(7).integers(0, VOCABULARY, (batch, sequence))
