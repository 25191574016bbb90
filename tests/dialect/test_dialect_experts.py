"""Experts, in each of its bodies, against a loop over tokens and their chosen experts in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
from onnx_run import TOLERANCE, compute, error, lowered, model_of, normals

from porter.dialect import DEQUANTIZE, EXPERTS
from porter.dialect.experts import gather_chosen, gather_few_else_all, multiply_all
from porter.graph import Graph, all_nodes
from porter.quantize import FORMS

LOOP = EXPERTS.bodies[0].build
Build = Callable[..., ir.Value]
BODIES = {"loop": LOOP, "few or all": gather_few_else_all, "all": multiply_all, "few": gather_chosen}
ACTIVE_ONLY = {"loop": LOOP, "few": gather_chosen}


class Sizes(NamedTuple):
    tokens: int
    hidden: int
    inner: int
    experts: int
    top_k: int


SIZES = [
    Sizes(1, 1, 1, 1, 1),
    Sizes(1, 5, 3, 7, 2),  # one token
    Sizes(3, 8, 6, 7, 2),  # as many tokens as are gathered: 7 // 2
    Sizes(4, 8, 6, 7, 2),  # one more
    Sizes(9, 7, 5, 3, 3),  # every expert
    Sizes(33, 6, 10, 16, 4),
]
Tensors = list[np.ndarray]  # x, weights, experts, gate_up, down


def tensors(dtype: str, n: Sizes) -> Tensors:
    """Random ones; the experts of a token are distinct, as Route's are."""
    x, gate_up, down = normals(
        dtype, (n.tokens, n.hidden), (n.experts, 2 * n.inner, n.hidden), (n.experts, n.hidden, n.inner)
    )
    rng = np.random.default_rng(1)
    experts = np.stack([rng.permutation(n.experts)[: n.top_k] for _ in range(n.tokens)])
    return [x, rng.random((n.tokens, n.top_k), np.float32), experts.astype(np.int64), gate_up, down]


def mixture(given: Tensors) -> np.ndarray:
    x, weights, experts, gate_up, down = given
    result = np.zeros(x.shape)
    for t, k in np.ndindex(*experts.shape):
        both = gate_up[experts[t, k]].astype(np.float64) @ x[t]
        gate, up = np.split(both, 2)
        hidden = gate / (1 + np.exp(-gate)) * up
        result[t] += weights[t, k] * (down[experts[t, k]] @ hidden)
    return result


def computed(body: str, given: Tensors, offset: int | None = None) -> np.ndarray:
    def build(graph: Graph, x: ir.Value, *inputs: ir.Value) -> ir.Value:
        result = BODIES[body](graph, x, *inputs, top_k=given[2].shape[1], offset=offset)
        result.shape = x.shape  # restated, as for every graph output: ONNX infers none through Loop and If
        return result

    return compute(build, *given)


def test_every_body_is_tried() -> None:
    assert {b.build for b in EXPERTS.bodies} == set(BODIES.values())


@pytest.mark.parametrize(("few", "body"), [(None, LOOP), (1, gather_chosen), (0, multiply_all)])
def test_where_the_tokens_are_known_nothing_is_decided_in_the_graph(few: int | None, body: Build) -> None:
    attributes = {"top_k": 2, "few": few}
    assert next(b.build for b in EXPERTS.bodies if b.when(attributes)) is body


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", SIZES, ids=lambda n: "-".join(map(str, n)))
@pytest.mark.parametrize("body", BODIES)
def test_each_token_goes_through_its_experts(body: str, sizes: Sizes, dtype: str) -> None:
    given = tensors(dtype, sizes)
    got = computed(body, given)
    assert got.dtype == dtype
    assert error(got, mixture(given)) < TOLERANCE[dtype]


@pytest.mark.parametrize("sizes", [Sizes(1, 5, 3, 8, 2), Sizes(9, 7, 5, 6, 3)], ids=["one token", "nine"])
@pytest.mark.parametrize("body", BODIES)
def test_what_the_experts_of_each_card_add_is_the_whole(body: str, sizes: Sizes) -> None:
    """Some cards have no expert that a token chose: they add zeros."""
    given, half = tensors("float32", sizes), sizes.experts // 2
    first = computed(body, [*given[:3], *(w[:half] for w in given[3:])], 0)
    second = computed(body, [*given[:3], *(w[half:] for w in given[3:])], half)
    assert error(first + second, mixture(given)) < TOLERANCE["float32"]
    nobody = [*given[:2], np.full_like(given[2], half), *(w[:half] for w in given[3:])]
    assert (computed(body, nobody, 0) == 0).all()


@pytest.mark.parametrize("body", ACTIVE_ONLY)
def test_an_expert_that_nobody_chose_is_not_read(body: str) -> None:
    given = tensors("float32", Sizes(3, 4, 3, 8, 2))
    _, _, experts, gate_up, down = given
    expected = mixture(given)
    idle = np.setdiff1d(np.arange(8), experts)
    assert len(idle) > 0
    gate_up[idle], down[idle] = np.nan, np.nan
    assert error(computed(body, given), expected) < 1e-6


@pytest.mark.parametrize(("count", "read"), [(4, False), (5, True)])
def test_few_tokens_gather_and_many_read_all(count: int, read: bool) -> None:
    """8 experts, two for each token: four tokens read no more than all of them."""
    given = tensors("float32", Sizes(count, 4, 3, 8, 2))
    given[2] %= 7
    given[4][7] = np.nan  # the expert that nobody chose
    assert np.isnan(computed("few or all", given)).any() == read


@pytest.mark.parametrize("body", BODIES)
def test_a_crowd_at_one_expert(body: str) -> None:
    given = tensors("float32", Sizes(6, 4, 3, 5, 1))
    given[2][:] = 4
    assert error(computed(body, given), mixture(given)) < 1e-6


@pytest.mark.parametrize("body", BODIES)
def test_shares_are_applied_in_float32(body: str) -> None:
    """1.0004 would be 1 in float16, but 2000 times it is not 2000."""
    x, down = np.ones((1, 1), np.float16), np.ones((1, 1, 1), np.float16)
    gate_up = np.array([[[50], [40]]], np.float16)
    got = computed(body, [x, np.array([[1.0004]], np.float32), np.array([[0]]), gate_up, down])
    assert got.item() == 2001


# ------------------------------------------------------------------------------ experts that are codes

WIDE = Sizes(5, 256, 128, 9, 2)  # gate_up in rows of two blocks or more, down in rows of one at least


def quantized(form: str, given: Tensors) -> tuple[Build, Tensors]:
    """The same experts as codes: what calls a body with them, and the arrays it takes in."""
    first, second = (FORMS[form].encode(w, "w") for w in given[3:])
    arrays = [*given[:3], first[0], second[0], *first[1:], *second[1:]]

    def call(body: Build) -> Build:
        def build(graph: Graph, x: ir.Value, *inputs: ir.Value) -> ir.Value:
            count = len(first) - 1  # of scales and zero points
            rest = [*inputs[4:][:count], None, *inputs[4:][count:], None] if count == 1 else inputs[4:]
            options = {"top_k": given[2].shape[1], "bits": FORMS[form].bits, "block": FORMS[form].block}
            result = body(graph, x, *inputs[:4], *rest, **options)
            result.shape = x.shape
            return result

        return build

    return call, arrays


def meaning(form: str, given: Tensors) -> Tensors:
    """The same experts as the numbers that their codes mean."""

    def decode(weight: np.ndarray) -> np.ndarray:
        def build(graph: Graph, *parts: ir.Value) -> ir.Value:
            return DEQUANTIZE(graph, *parts, bits=FORMS[form].bits, block=FORMS[form].block, shape=weight.shape)

        return np.asarray(compute(build, *FORMS[form].encode(weight, "w")))

    return [*given[:3], *map(decode, given[3:])]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("body", BODIES)
def test_experts_as_codes_are_the_numbers_that_these_mean(body: str, form: str) -> None:
    given = tensors("float32", WIDE)
    call, arrays = quantized(form, given)
    got = compute(call(BODIES[body]), *arrays)
    assert error(got, mixture(meaning(form, given))) < 1e-6
    assert error(got, mixture(given)) > 1e-4  # and not those that they were made of


@pytest.mark.parametrize("form", ["int8", "int4:32:asymmetric"])
@pytest.mark.parametrize("body", ACTIVE_ONLY)
def test_experts_are_gathered_first_and_decoded_then(body: str, form: str) -> None:
    """Decoding all of them on every call would read all of them."""
    call, arrays = quantized(form, tensors("float32", WIDE))
    model = lowered(model_of(call(BODIES[body]), *arrays))
    stored = set(model.graph.inputs[3:])
    readers = {node.op_type for node in all_nodes(model.graph) if stored & set(node.inputs)}
    assert readers == {"Gather"}


@pytest.mark.parametrize("body", BODIES)
def test_one_of_the_two_weights_may_be_numbers(body: str) -> None:
    given = tensors("float32", WIDE)
    codes, scale = FORMS["int8"].encode(given[4], "w")

    def build(graph: Graph, x: ir.Value, *inputs: ir.Value) -> ir.Value:
        result = BODIES[body](graph, x, *inputs[:4], None, None, inputs[4], None, top_k=2, bits=8)
        result.shape = x.shape
        return result

    got = compute(build, *given[:4], codes, scale)
    assert error(got, mixture([*given[:4], meaning("int8", given)[4]])) < 1e-6
