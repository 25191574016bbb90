"""Frequencies against transformers' own, tables and the dynamic rotation against sines and cosines in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_run import DTYPES, FLOAT, INT64, lowered, model_of, run
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from porter.blocks.rope import DynamicRope, LinearRope, Llama3Rope, Rope, YarnRope, yarn_mscale
from porter.blocks.step import GrowingStep
from porter.graph import Graph

PLAIN = {"theta": 10000.0, "max_positions": 64}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = PLAIN | {"factor": 4.0, "original_max_positions": 16}
ROPES: dict[str, tuple[type[Rope], dict[str, Any]]] = {
    "default": (Rope, PLAIN),
    "default, other theta": (Rope, PLAIN | {"theta": 5e5}),
    "linear": (LinearRope, PLAIN | {"factor": 2.5}),
    "llama3": (Llama3Rope, PLAIN | LLAMA3 | {"original_max_positions": 8192, "theta": 5e5}),
    "llama3, short": (Llama3Rope, PLAIN | LLAMA3 | {"original_max_positions": 32}),
    "llama3, wide": (Llama3Rope, PLAIN | LLAMA3 | {"original_max_positions": 512, "high_freq_factor": 32.0}),
    "yarn": (YarnRope, YARN),
    "yarn, as published": (
        YarnRope,
        YARN | {"factor": 40.0, "original_max_positions": 4096, "mscale": 1.0} | {"mscale_all_dim": 1.0},
    ),
    "yarn, two mscales": (YarnRope, YARN | {"mscale": 0.7, "mscale_all_dim": 1.3}),
    "yarn, one mscale": (YarnRope, YARN | {"mscale": 0.7}),
    "yarn, attention factor": (YarnRope, YARN | {"explicit_attention_factor": 1.7}),
    "yarn, both": (YarnRope, YARN | {"explicit_attention_factor": 1.7, "mscale": 0.7, "mscale_all_dim": 1.3}),
    "yarn, not truncated": (YarnRope, YARN | {"truncate": False, "original_max_positions": 300}),
    "yarn, other betas": (YarnRope, YARN | {"beta_fast": 8.0, "beta_slow": 2.0, "original_max_positions": 2048}),
    "yarn, factor below one": (YarnRope, YARN | {"factor": 0.5, "original_max_positions": 4096}),
    "yarn, no room": (YarnRope, YARN | {"original_max_positions": 4}),
}
THEIRS = {
    "theta": "rope_theta",
    "original_max_positions": "original_max_position_embeddings",
    "explicit_attention_factor": "attention_factor",
}


def config(kind: str, parameters: dict[str, Any], dim: int) -> LlamaConfig:
    """The same rotation in transformers' words."""
    given = {THEIRS.get(name, name): value for name, value in parameters.items() if name != "max_positions"}
    heads = {"hidden_size": 2 * dim, "num_attention_heads": 2, "max_position_embeddings": parameters["max_positions"]}
    return LlamaConfig(**heads, rope_parameters={"rope_type": kind, **given})


def transformers_frequencies(
    kind: str, parameters: dict[str, Any], dim: int, **options: Any
) -> tuple[np.ndarray, float]:
    if kind == "default":
        frequencies, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config(kind, parameters, dim))
    else:
        frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config(kind, parameters, dim), torch.device("cpu"), **options)
    return frequencies.numpy(), factor


@pytest.mark.parametrize("dim", [2, 6, 64, 128])
@pytest.mark.parametrize("name", ROPES)
def test_frequencies_and_factor_are_those_of_transformers(name: str, dim: int) -> None:
    cls, parameters = ROPES[name]
    rope = cls(dim=dim, **parameters)
    frequencies, factor = transformers_frequencies(name.partition(",")[0], parameters, dim)
    assert rope.inverse_frequencies().dtype == np.float64
    assert np.allclose(rope.inverse_frequencies(), frequencies, rtol=1e-6, atol=0)
    assert rope.attention_factor() == pytest.approx(factor, rel=1e-12)


def test_yarn_is_neither_all_stretched_nor_all_kept() -> None:
    """The examples above would not tell a ramp from its ends if none lay between."""
    cls, parameters = ROPES["yarn, not truncated"]
    ratio = cls(dim=64, **parameters).inverse_frequencies() / Rope(64, 1e4, 64).inverse_frequencies()
    assert ratio[0] == 1
    assert ratio[-1] == 0.25
    assert ((ratio > 0.26) & (ratio < 0.99)).sum() > 3


@pytest.mark.parametrize(("factor", "expected"), [(40.0, 0.1 * 0.7 * np.log(40) + 1), (1.0, 1.0), (0.5, 1.0)])
def test_yarn_temperature(factor: float, expected: float) -> None:
    assert yarn_mscale(factor, 0.7) == pytest.approx(expected)


# --------------------------------------------------------------------------------- in a graph


def rotation(rope: Rope, positions: np.ndarray, dtype: str = "float32") -> list[np.ndarray]:
    """Cosines and sines that the module of a rope gives for these positions [batch, sequence]."""
    module = rope.module()
    tables = {p.name: p for p in module.parameters()}

    def build(graph: Graph, position_ids: ir.Value) -> list[ir.Value]:
        turned = module(GrowingStep(graph, DTYPES[dtype], position_ids, position_ids, position_ids))
        for name, table in tables.items():
            assert table.table is not None
            graph.root.initializers[name].const_value = ir.tensor(table.table().astype(dtype), name=name)
        return [turned.cos, turned.sin]

    return list(run(lowered(model_of(build, positions)), {"in0": positions}).values())


def angles(frequencies: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """[batch, 1, sequence, dim / 2]"""
    return positions[:, None, :, None] * frequencies


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["default", "llama3, short", "yarn, attention factor", "yarn, two mscales"])
def test_tables_hold_the_nearest_to_cosine_and_sine(name: str, dtype: str) -> None:
    cls, parameters = ROPES[name]
    rope, positions = cls(dim=6, **parameters), np.array([[0, 1, 63], [5, 4, 17]])
    angle = angles(rope.inverse_frequencies(), positions)
    cos, sin = rotation(rope, positions, dtype)
    assert np.array_equal(cos, (np.cos(angle) * rope.attention_factor()).astype(dtype))
    assert np.array_equal(sin, (np.sin(angle) * rope.attention_factor()).astype(dtype))


DYNAMIC = DynamicRope(dim=16, theta=1e4, max_positions=32, factor=2.0)


def dynamic_frequencies(rope: DynamicRope, length: int) -> np.ndarray:
    """Transformers' formula in float64: the base grows with what the call's length exceeds max_positions by."""
    stretch = rope.factor * max(length, rope.max_positions) / rope.max_positions - (rope.factor - 1)
    theta = rope.theta * stretch ** (rope.dim / (rope.dim - 2))
    return np.asarray(1 / theta ** (np.arange(0, rope.dim, 2) / rope.dim))


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 1000])
def test_the_formula_of_the_dynamic_rope_is_that_of_transformers(length: int) -> None:
    parameters = PLAIN | {"factor": 2.0, "max_positions": 32}
    frequencies, _ = transformers_frequencies("dynamic", parameters, 16, seq_len=length)
    assert np.allclose(dynamic_frequencies(DYNAMIC, length), frequencies, rtol=1e-6, atol=0)


@pytest.mark.parametrize("factor", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("last", [0, 7, 30, 31, 32, 33, 63, 500])
def test_dynamic_angles_below_at_and_beyond_the_trained_length(last: int, factor: float) -> None:
    """An angle of n radians has an error of about n * 2^-24 in float32, whoever computes it."""
    rope = replace(DYNAMIC, factor=factor)
    positions = np.array([[0, last // 2, last], [last // 3, 0, 0]])
    angle = angles(dynamic_frequencies(rope, last + 1), positions)
    cos, sin = rotation(rope, positions)
    allowed = 3e-7 + 2.5e-7 * angle
    assert (np.abs(cos - np.cos(angle)) <= allowed).all()
    assert (np.abs(sin - np.sin(angle)) <= allowed).all()


def test_dynamic_angles_depend_on_the_longest_of_the_batch() -> None:
    alone, _ = rotation(DYNAMIC, np.array([[3]]))
    with_longer, _ = rotation(DYNAMIC, np.array([[3], [60]]))
    assert np.abs(alone[0] - with_longer[0]).max() > 1e-3


def test_sine_and_cosine_of_dynamic_angles_are_exact_where_the_angle_is() -> None:
    """Frequency 1 and position n turn by n radians: nothing but the polynomials is left to be wrong."""
    cos, sin = rotation(DYNAMIC, np.arange(7)[None])
    assert np.abs(cos[0, 0, :, 0] - np.cos(np.arange(7))).max() < 5e-7
    assert np.abs(sin[0, 0, :, 0] - np.sin(np.arange(7))).max() < 5e-7


def test_dynamic_angles_are_computed_in_float32_for_a_float16_port() -> None:
    positions = np.array([[0, 20, 40]])
    wide, narrow = rotation(DYNAMIC, positions), rotation(DYNAMIC, positions, "float16")
    assert [x.dtype for x in narrow] == [np.float16, np.float16]
    assert all(np.array_equal(w.astype(np.float16), n) for w, n in zip(wide, narrow, strict=True))


def test_no_front_end_has_to_know_sine_or_cosine() -> None:
    graph = Graph()
    ids = graph.input("ids", INT64, ["batch", "sequence"])
    DYNAMIC.module()(GrowingStep(graph, FLOAT, ids, ids, ids))
    assert {"Sin", "Cos"}.isdisjoint(node.op_type for node in graph.root)
