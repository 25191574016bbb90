"""Vendors' operators: each means what its vendor documents, and each mapping computes what its function does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnx_run
import onnxruntime
import pytest
from onnx_run import model_of, normals

from porter.dialect import FUNCTIONS
from porter.graph import Graph, all_nodes, inferred
from porter.passes.checks import check
from porter.passes.lower import Lower
from porter.target import Check, CustomOperator, Frontend, OperatorMapping, frontends

OPERATORS = {f"{f.name} {o.identifier}": o for f in frontends().values() for o in f.custom_operators.values()}
MAPPINGS = [(f, m) for f in frontends().values() for m in f.mappings]
NAMES = [f"{f.name}-{m.function}-{i}" for i, (f, m) in enumerate(MAPPINGS)]
NPU = frontends()["cann-atc"].custom_operators
MX = frontends()["migraphx"].custom_operators


def run(
    operator: CustomOperator,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str] | None = None,
    kernel: bool = False,
    **attributes: Any,
) -> list[np.ndarray]:
    """Runs a model of one node, which is the operator, by its meaning: under another domain than its own, in which ONNX
    Runtime may have a `kernel`, which comes first.
    """
    domain, outputs = operator.domain if kernel else "meant", outputs or operator.outputs
    node = onnx.helper.make_node(operator.name, list(inputs), outputs, domain=domain, name="node", **attributes)
    declared = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in inputs.items()
    ]
    results_of = [onnx.ValueInfoProto(name=name) for name in outputs if name]
    graph = onnx.helper.make_graph([node], "one", declared, results_of)
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(domain, operator.version)]
    meaning = onnx.parser.parse_function(operator.meaning)
    meaning.domain = domain
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=opsets, functions=[meaning])
    options = onnxruntime.SessionOptions()  # without its own rewriting, which rounds float16 less often
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[np.ndarray] = session.run(None, dict(inputs))
    return results


# --------------------------------------------------------------------------------- every operator, every mapping


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())
def test_a_meaning_is_a_function_with_the_operator_s_name_and_interface(operator: CustomOperator) -> None:
    """It may tell of calls with fewer inputs than there can be: those behind are left out."""
    assert operator.meaning is not None
    function = onnx.parser.parse_function(operator.meaning)
    count = len(function.input)
    assert (function.domain, function.name) == (operator.domain, operator.name)
    assert tuple(function.input) == operator.inputs[:count]
    assert count in operator.input_counts
    assert tuple(function.output) == operator.outputs
    assert {attribute.name for attribute in function.attribute_proto} == set(operator.attributes)
    onnx.checker.check_function(function)


@pytest.mark.parametrize(("frontend", "mapping"), MAPPINGS, ids=NAMES)
def test_a_mapping_speaks_of_what_its_function_has(frontend: Frontend, mapping: OperatorMapping) -> None:
    function = FUNCTIONS[mapping.function]
    bounds = [limit["equals"] for limit in mapping.when.values() if isinstance(limit, dict) and "equals" in limit]
    assert set(mapping.inputs) <= set(function.inputs)
    assert {*mapping.attributes, *mapping.when, *bounds} <= set(function.attributes)
    assert len(mapping.outputs) == len(function.results)


EXAMPLES: dict[str, list[tuple[dict[str, Any], list[np.ndarray]]]] = {
    "RMSNorm": [({"epsilon": 1e-6}, normals("float32", (3, 5, 64), (64,)))],
    "RotaryEmbedding": [
        ({"interleaved": 1, "dim": 64}, normals("float32", (2, 3, 5, 64), (2, 1, 5, 32), (2, 1, 5, 32))),
        ({"interleaved": 0, "dim": 128}, normals("float32", (2, 3, 5, 128), (2, 1, 5, 64), (2, 1, 5, 64))),
    ],
    "Attention": [
        (
            {"heads": 4, "groups": groups, "key_dim": 16, "value_dim": 16, "scale": 0.3},
            [*normals("float32", (2, 4, 3, 16), (2, groups, 5, 16), (2, groups, 5, 16)), mask],
        )
        for groups in (4, 2, 1)
        for mask in (np.tril(np.ones((2, 1, 3, 5), bool), 2), np.random.default_rng(1).random((2, 1, 3, 5)) < 0.6)
    ],
    "Route": [
        ({"experts": 8, "scoring": "softmax", "top_k": 3, "normalize": n, "scale": 1.0}, normals("float32", (5, 8)))
        for n in (0, 1)
    ],
    "QuantizedLinear": [
        (
            {"bits": 8, "inputs": 32, "outputs": 6},
            [
                *normals("float32", (3, 32)),
                np.random.default_rng(0).integers(-127, 128, (6, 32)).astype(np.int8),
                normals("float32", (6,))[0] ** 2,
            ],
        ),
        *(
            (
                {"bits": 4, "block": block, "inputs": 256, "outputs": 6},
                [
                    *normals("float32", (3, 256)),
                    np.random.default_rng(0).integers(0, 256, (6, 128)).astype(np.uint8),
                    normals("float32", (6, 256 // block))[0] ** 2,
                ],
            )
            for block in (32, 64, 128)
        ),
    ],
}


def called(function: str, attributes: dict[str, Any], arrays: list[np.ndarray]) -> ir.Model:
    def build(graph: Graph, *values: ir.Value) -> Any:
        given = [*values, None] if function == "Route" else values
        return FUNCTIONS[function](graph, *given, **attributes)

    return model_of(build, *arrays)


@pytest.mark.parametrize(("frontend", "mapping"), MAPPINGS, ids=NAMES)
def test_a_mapping_computes_what_its_function_does(frontend: Frontend, mapping: OperatorMapping) -> None:
    """In float32, in which ONNX Runtime can compute both; the mapping itself may be for narrow types only."""
    alone = replace(frontend, mappings=(replace(mapping, dtypes={}),))
    applied = 0
    for attributes, arrays in EXAMPLES[mapping.function]:
        plain, mapped = (called(mapping.function, attributes, arrays) for _ in range(2))
        Lower(frontends()["onnxruntime"])(plain)
        step = Lower(alone)
        step(mapped)
        if not step.mapped:
            continue
        applied += 1
        given = {f"in{i}": array for i, array in enumerate(arrays)}
        expected, got = onnx_run.run(plain, given), onnx_run.run(mapped, given)
        for name in expected:
            assert got[name].dtype == expected[name].dtype
            assert onnx_run.error(got[name], expected[name]) < 2e-6, (name, attributes)
    assert applied, "no example is one that it applies to"


@pytest.mark.parametrize(("frontend", "mapping"), MAPPINGS, ids=NAMES)
def test_what_a_mapping_writes_is_what_the_vendor_s_parser_reads(frontend: Frontend, mapping: OperatorMapping) -> None:
    rules = tuple(Check(name, "it stops", "its manual") for name in ("custom-operators", "no-empty-names"))
    alone = replace(frontend, mappings=(replace(mapping, dtypes={}),), checks=rules)
    for attributes, arrays in EXAMPLES[mapping.function]:
        model = called(mapping.function, attributes, arrays)
        step = Lower(alone)
        step(model)
        if step.mapped:
            for output, known in zip(
                model.graph.outputs, ir.from_proto(onnx_run.checked(model)).graph.outputs, strict=True
            ):
                output.shape = known.shape
            check(inferred(model), alone)
            assert all(value.type for node in all_nodes(model.graph) for value in node.outputs)


# --------------------------------------------------------------------------------- CANN


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-6), ("float16", 2e-3)])
@pytest.mark.parametrize("added", [False, True], ids=["", "added"])
def test_npu_rms_norm(dtype: str, limit: float, added: bool) -> None:
    """Small values, so that epsilon weighs: 1e-5 in place of 1e-6 would show."""
    x, other = (array * np.asarray(1e-3, dtype) for array in normals(dtype, (2, 3, 64), (2, 3, 64)))
    (gamma,) = normals(dtype, (64,), seed=1)
    if added:
        y, rstd, total = run(NPU["npu::NPUAddRmsNorm"], {"x1": x, "x2": other, "gamma": gamma})
        assert np.array_equal(total, x + other)
    else:
        y, rstd = run(NPU["npu::NPURmsNorm"], {"x": x, "gamma": gamma})
    exact = (x + other if added else x).astype(np.float64)
    expected_rstd = 1 / np.sqrt(np.mean(exact**2, axis=-1, keepdims=True) + 1e-6)
    assert (y.dtype, rstd.dtype) == (np.dtype(dtype), np.dtype("float32"))
    # ONNX Runtime adds float16 in float32 and rounds what leaves the function, not what stays inside
    np.testing.assert_allclose(rstd, expected_rstd, rtol=2e-4 if added and dtype == "float16" else 1e-6)
    np.testing.assert_allclose(y, exact * expected_rstd * gamma.astype(np.float64), rtol=limit, atol=limit)


def turned(x: np.ndarray, interleaved: bool) -> np.ndarray:
    """Each pair (a, b) as (-b, a), as the manual writes it for torch."""
    if not interleaved:
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate((-second, first), axis=-1)
    return np.stack((-x[..., 1::2], x[..., ::2]), axis=-1).reshape(x.shape)


@pytest.mark.parametrize("name", ["NPURotaryMul", "NPURotaryPositionEmbedding 0", "NPURotaryPositionEmbedding 1"])
def test_npu_rotations(name: str) -> None:
    operator, _, mode = name.partition(" ")
    x, cos, sin = normals("float32", (2, 3, 5, 8), (1, 1, 5, 8), (1, 1, 5, 8))
    inputs = dict(zip(NPU[f"npu::{operator}"].inputs, (x, cos, sin), strict=True))
    (y,) = run(NPU[f"npu::{operator}"], inputs, **({"mode": int(mode)} if mode else {}))
    np.testing.assert_allclose(y, x * cos + turned(x, mode == "1") * sin, rtol=1e-6, atol=1e-6)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, pse: np.ndarray, hidden: np.ndarray, scale: float) -> Any:
    """softmax(q·k * scale + pse where not hidden) · v in float64, keys shared by groups of heads."""
    k, v = (np.repeat(a.astype(np.float64), q.shape[1] // a.shape[1], axis=1) for a in (k, v))
    scores = np.where(hidden, -1e300, q.astype(np.float64) @ k.swapaxes(2, 3) * scale + pse)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float16", 4e-3)])
def test_npu_prompt_flash_attention(groups: int, dtype: str, limit: float) -> None:
    q, k, v, pse = normals(dtype, (2, 4, 3, 16), (2, groups, 5, 16), (2, groups, 5, 16), (1, 4, 3, 5))
    hidden = ~np.tril(np.ones((2, 1, 3, 5), bool), 2)
    inputs = dict(zip(("query", "key", "value", "pse_shift", "atten_mask"), (q, k, v, pse, hidden), strict=True))
    wide = {"pre_tokens": 2147483647, "next_tokens": 2147483647, "sparse_mode": 0, "inner_precise": 0}
    (y,) = run(
        NPU["npu::NPUPromptFlashAttention"], inputs, num_heads=4, num_key_value_heads=groups, input_layout="BNSD",
        scale_value=0.3, **wide,
    )  # fmt: skip
    np.testing.assert_allclose(y, attention(q, k, v, pse, hidden, 0.3), rtol=limit, atol=limit)


def test_npu_incre_flash_attention() -> None:
    """What lies behind a sequence's length is not seen, whatever the mask says."""
    q, k, v, pse = normals("float32", (2, 4, 1, 8), (2, 4, 5, 8), (2, 4, 5, 8), (2, 4, 1, 5))
    mask, lengths = np.zeros((2, 1, 1, 5), bool), np.array([3, 5])
    mask[1, 0, 0, 1] = True
    names = NPU["npu::NPUIncreFlashAttention"].inputs
    inputs = dict(zip(names, (q, k, v, pse, mask, lengths), strict=True))
    operator = NPU["npu::NPUIncreFlashAttention"]
    (y,) = run(operator, inputs, num_heads=4, input_layout="BNSD", scale_value=0.4)
    hidden = mask | (np.arange(5) >= lengths.reshape(2, 1, 1, 1))
    np.testing.assert_allclose(y, attention(q, k, v, pse, hidden, 0.4), rtol=1e-5, atol=1e-5)


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    result: np.ndarray = powers / powers.sum(-1, keepdims=True)
    return result


def test_npu_moe_gating_top_k_softmax() -> None:
    (x,) = normals("float32", (5, 8))
    y, experts, rows = run(NPU["npu::NPUMoeGatingTopKSoftmax"], {"x": x}, k=3)
    order = np.argsort(-x, axis=-1, kind="stable")[:, :3]
    assert np.array_equal(experts, order)
    np.testing.assert_allclose(y, np.take_along_axis(softmax(x), order, -1), rtol=1e-6)
    assert np.array_equal(rows, np.arange(15).reshape(3, 5).T)
    assert {experts.dtype, rows.dtype} == {np.dtype("int32")}


def test_npu_moe_operators_route_there_and_back() -> None:
    """Tokens sorted by expert, put through an expert of their own, and added up again: a mixture of experts."""
    x, skip, other, bias, scales = normals("float32", (5, 4), (5, 4), (5, 4), (6, 4), (5, 2))
    (logits,) = normals("float32", (5, 6), seed=3)
    _, experts, rows = run(NPU["npu::NPUMoeGatingTopKSoftmax"], {"x": logits}, k=2)
    routed = {"x": x, "row_idx": rows, "expert_idx": experts}
    spread, places, sorted_experts = run(NPU["npu::NPUMoeInitRouting"], routed, active_num=5)
    order = np.argsort(experts.ravel(), kind="stable")
    assert np.array_equal(sorted_experts, experts.ravel()[order])
    assert np.array_equal(spread, x[rows.ravel()[order] % 5])
    counted = run(NPU["npu::NPUMoeComputeExpertTokens"], {"sorted_experts": sorted_experts}, num_experts=6)[0]
    assert np.array_equal(counted, np.searchsorted(sorted_experts, np.arange(6), side="right"))
    through = spread * (1.0 + sorted_experts[:, None].astype(np.float32))
    expected = skip + other
    for token in range(5):
        for k in range(2):
            e = experts[token, k]
            expected[token] += scales[token, k] * (x[token] * (1.0 + e) + bias[e])
    parts = {"expanded_x": through, "x1": skip, "x2": other, "bias": bias, "scales": scales}
    (y,) = run(NPU["npu::NPUMoeFinalizeRouting"], parts | {"expanded_row_idx": places, "expanded_expert_idx": experts})
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    second = {
        "expanded_row_idx": places,
        "x1": skip,
        "x2": other,
        "bias": bias,
        "scales": scales,
        "expert_idx": experts,
    }
    (again,) = run(NPU["npu::NPUMoeFinalizeRoutingV2"], {"expanded_x": through, **second}, drop_pad_mode=0)
    assert np.array_equal(again, y)


def test_weight_quant_batch_matmul() -> None:
    (x,) = normals("float16", (3, 32))
    codes = np.random.default_rng(0).integers(-128, 128, (32, 6)).astype(np.int8)
    scale = (normals("float16", (6,))[0] ** 2 + 0.01).astype(np.float16)
    inputs = {"x": x, "weight": codes, "antiquant_scale": scale}
    (y,) = run(NPU["npu::WeightQuantBatchMatmulV2"], inputs, antiquant_group_size=0)
    expected = x.astype(np.float64) @ (codes.astype(np.float64) * scale.astype(np.float64))
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


# --------------------------------------------------------------------------------- MIGraphX


@pytest.mark.parametrize("kernel", [False, True], ids=["meaning", "kernel"])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-6])
def test_migraphx_norms(epsilon: float, kernel: bool) -> None:
    """ONNX Runtime has a kernel for the second alone."""
    x, skip = (array * np.float32(1e-3) for array in normals("float32", (3, 32), (3, 32)))
    (gamma,) = normals("float32", (32,), seed=2)

    def normed(x: np.ndarray) -> Any:
        exact = x.astype(np.float64)
        return exact / np.sqrt((exact**2).mean(-1, keepdims=True) + epsilon) * gamma

    norm, skipping = (MX[f"com.microsoft::{name}SimplifiedLayerNormalization"] for name in ("", "Skip"))
    (y,) = run(norm, {"x": x, "scale": gamma}, kernel=kernel, epsilon=epsilon)
    np.testing.assert_allclose(y, normed(x), rtol=1e-5)
    given = {"input": x, "skip": skip, "gamma": gamma}
    y, total = run(skipping, given, ["output", "", "", "input_skip_bias_sum"], kernel=kernel, epsilon=epsilon)
    np.testing.assert_allclose(y, normed(x + skip), rtol=1e-5)
    assert np.array_equal(total, x + skip)


@pytest.mark.parametrize("kernel", [False, True], ids=["meaning", "kernel"])
@pytest.mark.parametrize("interleaved", [0, 1])
def test_migraphx_rotary_embedding(interleaved: int, kernel: bool) -> None:
    x, cos, sin = normals("float32", (2, 3, 5, 16), (9, 8), (9, 8))
    positions = np.random.default_rng(0).integers(0, 9, (2, 5))
    given = {"input": x, "position_ids": positions, "cos_cache": cos, "sin_cache": sin}
    (y,) = run(MX["com.microsoft::RotaryEmbedding"], given, kernel=kernel, interleaved=interleaved)
    wide = [
        (np.repeat(t, 2, -1) if interleaved else np.concatenate((t, t), -1))[positions][:, None] for t in (cos, sin)
    ]
    np.testing.assert_allclose(y, x * wide[0] + turned(x, bool(interleaved)) * wide[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [False, True], ids=["meaning", "kernel"])
@pytest.mark.parametrize("block", [16, 32, 128])
def test_migraphx_mat_mul_n_bits(block: int, kernel: bool) -> None:
    (x,) = normals("float32", (3, 256))
    codes = np.random.default_rng(0).integers(0, 256, (6, 256 // block, block // 2)).astype(np.uint8)
    scales = normals("float32", (6, 256 // block))[0] ** 2
    given = {"A": x, "B": codes, "scales": scales}
    (y,) = run(MX["com.microsoft::MatMulNBits"], given, kernel=kernel, K=256, N=6, bits=4, block_size=block)
    numbers = (np.stack((codes & 15, codes >> 4), -1).reshape(6, -1, block).astype(np.float64) - 8) * scales[..., None]
    np.testing.assert_allclose(y, x.astype(np.float64) @ numbers.reshape(6, 256).T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kernel", [False, True], ids=["meaning", "kernel"])
@pytest.mark.parametrize("groups", [4, 2])
def test_migraphx_group_query_attention(groups: int, kernel: bool) -> None:
    """A prompt in an empty buffer, then one token behind it: by the meaning, and by ONNX Runtime's kernel."""
    operator, heads, size, places, rng = MX["com.microsoft::GroupQueryAttention"], 4, 8, 6, np.random.default_rng(5)
    cache = [np.zeros((2, groups, places, size), np.float32) for _ in range(2)]
    seen: list[np.ndarray] = [np.zeros((2, groups, 0, size), np.float32) for _ in range(2)]
    for new, total in ((4, 4), (1, 5)):
        q = rng.standard_normal((2, new, heads * size)).astype(np.float32)
        k, v = (rng.standard_normal((2, new, groups * size)).astype(np.float32) for _ in range(2))
        lengths, all_of_them = np.full(2, total - 1, np.int32), np.array([total], np.int32)
        inputs = dict(zip(operator.inputs, (q, k, v, *cache, lengths, all_of_them), strict=False))
        y, *cache = run(operator, inputs, kernel=kernel, num_heads=heads, kv_num_heads=groups, scale=0.4)
        rows = [part.reshape(2, new, groups, size).swapaxes(1, 2) for part in (k, v)]
        seen = [np.concatenate(parts, axis=2) for parts in zip(seen, rows, strict=True)]
        hidden = ~np.tril(np.ones((new, total), bool), total - new)
        wanted = attention(q.reshape(2, new, heads, size).swapaxes(1, 2), *seen, np.zeros(1), hidden, 0.4)
        np.testing.assert_allclose(y, wanted.swapaxes(1, 2).reshape(2, new, -1), rtol=1e-4, atol=1e-5)
        for got, expected in zip(cache, seen, strict=True):
            np.testing.assert_array_equal(got[:, :, :total], expected)


@pytest.mark.parametrize(
    ("function", "attributes", "dtype"),
    [
        ("Attention", {"heads": 4, "groups": 2, "key_dim": 16, "value_dim": 16, "scale": 0.3}, "float32"),
        ("Attention", {"heads": 4, "groups": 2, "key_dim": 24, "value_dim": 24, "scale": 0.3}, "float16"),
        ("Attention", {"heads": 4, "groups": 2, "key_dim": 32, "value_dim": 16, "scale": 0.3}, "float16"),
        ("Attention", {"heads": 4, "groups": 2, "key_dim": 576, "value_dim": 576, "scale": 0.3}, "float16"),
        ("RotaryEmbedding", {"interleaved": 0, "dim": 96}, "float32"),
        ("RotaryEmbedding", {"interleaved": 1, "dim": 896}, "float32"),
        ("Route", {"experts": 8, "scoring": "softmax", "top_k": 3, "normalize": 0, "scale": 2.0}, "float32"),
        ("Route", {"experts": 8, "scoring": "sigmoid", "top_k": 3, "normalize": 0, "scale": 1.0}, "float32"),
        ("QuantizedLinear", {"bits": 8, "inputs": 32, "outputs": 6}, "float16"),
    ],
)
def test_what_cann_s_operators_do_not_cover_is_expanded(function: str, attributes: dict[str, Any], dtype: str) -> None:
    mappings = [m for m in frontends()["cann-atc"].mappings if m.function == function]
    values = {**FUNCTIONS[function].defaults, **attributes}
    for mapping in mappings:
        known = {name: "int8" if name == "codes" else dtype for name in mapping.inputs}
        assert not mapping.applies(values, known)
