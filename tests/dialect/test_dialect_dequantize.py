"""Dequantize, in each of its bodies, against codes decoded in numpy: equal to the last bit."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_run import compute, lowered, model_of

from porter.dialect import DEQUANTIZE
from porter.dialect.dequantize import in_arithmetic
from porter.graph import Graph, all_nodes
from porter.quantize import FORMS
from porter.target import frontends

LINEAR = DEQUANTIZE.bodies[0].build
BODIES = {"linear": LINEAR, "arithmetic": in_arithmetic}
SHAPES = [(5, 128), (1, 256), (3, 4, 128)]


def decoded(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Code by code, in float32."""
    if codes.dtype == np.uint8:
        whole = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*scale.shape, -1).astype(np.int32)
        whole = whole - (np.int32(8) if zero is None else zero.astype(np.int32)[..., None])
    else:
        whole = codes.astype(np.int32).reshape(*scale.shape, -1)
    return (whole.astype(np.float32) * scale[..., None]).reshape(shape)


def stored(text: str, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Every code there is, at random, with scales of both signs and all sizes."""
    rng = np.random.default_rng(3)
    codes, scale, *zero = FORMS[text].tensors("w", shape)
    low = -127 if codes[1] == ir.DataType.INT8 else 0
    arrays = [rng.integers(low, low + 255 + (low == 0), codes[2]).astype(codes[1].numpy())]
    arrays.append((rng.standard_normal(scale[2]) * 10.0 ** rng.integers(-9, 9, scale[2])).astype(np.float32))
    return arrays + [rng.integers(0, 16, shape).astype(np.uint8) for _, _, shape in zero]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("body", BODIES)
def test_every_bit_is_that_of_one_product_in_float32(body: str, text: str, shape: tuple[int, ...]) -> None:
    given, form = stored(text, shape), FORMS[text]

    def build(graph: Graph, *inputs: ir.Value) -> ir.Value:
        return BODIES[body](graph, *inputs, bits=form.bits, block=form.block, shape=shape)

    got = compute(build, *given)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, decoded(given[0], given[1], given[2] if len(given) > 2 else None, shape))


@pytest.mark.parametrize("body", BODIES)
def test_codes_by_hand(body: str) -> None:
    """Bytes 0x2f, 0x80 are the codes 15, 2, 0, 8: the low half first."""
    codes, scale = np.array([[0x2F, 0x80]], np.uint8), np.array([[0.5]], np.float32)

    def build(graph: Graph, *inputs: ir.Value) -> ir.Value:
        return BODIES[body](graph, *inputs, bits=4, block=4, shape=(1, 4))

    assert compute(build, codes, scale).tolist() == [[3.5, -3.0, -4.0, 0.0]]
    zero = np.array([[3]], np.uint8)
    assert compute(build, codes, scale, zero).tolist() == [[6.0, -0.5, -1.5, 2.5]]


def test_one_size_may_be_left_open() -> None:
    given = stored("int4:32:asymmetric", (3, 4, 64))

    def build(graph: Graph, *inputs: ir.Value) -> ir.Value:
        return DEQUANTIZE(graph, *inputs, bits=4, block=32, shape=(-1, 4, 64))

    assert compute(build, *given).shape == (3, 4, 64)


@pytest.mark.parametrize("frontend", frontends())
@pytest.mark.parametrize("text", FORMS)
def test_the_operator_of_onnx_is_taken_where_the_front_end_has_it(text: str, frontend: str) -> None:
    form, given = FORMS[text], stored(text, (6, 128))

    def build(graph: Graph, *inputs: ir.Value) -> ir.Value:
        return DEQUANTIZE(graph, *inputs, bits=form.bits, block=form.block, shape=(6, 128))

    found = [node.op_type for node in all_nodes(lowered(model_of(build, *given), frontend).graph)]
    assert ("DequantizeLinear" in found) == frontends()[frontend].has("DequantizeLinear", 13)
    assert len(found) == 1 or text != "int8" or "DequantizeLinear" not in found
