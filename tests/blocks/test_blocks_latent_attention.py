"""Latent attention: both forms against the paper's formulas in float64, and against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_run import attend, error, normals, random_weights

from porter.blocks.latent_attention import (
    AbsorbedHeads,
    ExpandedHeads,
    FullRankQuery,
    Heads,
    LatentAttention,
    LowRankQuery,
)
from porter.blocks.rope import Rope

HIDDEN, HEADS, LATENT, NOPE, ROPE, VALUE = 11, 3, 7, 5, 4, 6
TABLES = Rope(ROPE, 1e4, 32)
SCALE = 0.37
FORMS: dict[str, type[AbsorbedHeads | ExpandedHeads]] = {"absorbed": AbsorbedHeads, "expanded": ExpandedHeads}
QUERIES: dict[str, Callable[[], Any]] = {
    "full rank": lambda: FullRankQuery(HIDDEN, HEADS * (NOPE + ROPE)),
    "low rank": lambda: LowRankQuery(HIDDEN, 8, HEADS * (NOPE + ROPE), bias=False),
    "low rank, bias": lambda: LowRankQuery(HIDDEN, 8, HEADS * (NOPE + ROPE), bias=True),
}


def block(form: str, query: str = "low rank", interleaved: bool = True) -> LatentAttention:
    mixer: Heads = FORMS[form](HEADS, LATENT, NOPE, ROPE, VALUE)
    return LatentAttention(HIDDEN, QUERIES[query](), mixer, SCALE, interleaved, bias="bias" in query)


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight


def turned(x: np.ndarray, interleaved: bool) -> np.ndarray:
    """[…, sequence, ROPE] with pairs of features turned by position times frequency; each stays where it was."""
    order = np.arange(ROPE).reshape(-1, 2).T if interleaved else np.arange(ROPE).reshape(2, -1)
    angle = np.arange(x.shape[-2])[:, None] * 1e4 ** (-np.arange(ROPE // 2) / (ROPE // 2))
    both = (x[..., order[0]] + 1j * x[..., order[1]]) * np.exp(1j * angle)
    result = np.empty_like(x)
    result[..., order[0]], result[..., order[1]] = both.real, both.imag
    return result


def expected(query: str, interleaved: bool, x: np.ndarray) -> list[np.ndarray]:
    """Output and cache of one sequence [sequence, HIDDEN], head by head as section 2.1 of the paper has it."""
    weights = random_weights(block("expanded", query, interleaved).parameters())
    w = {n.removesuffix(".weight"): array.astype(np.float64) for n, array in weights.items()}
    q = x @ w["q_proj"].T if "q_proj" in w else None
    if q is None:
        q = rms(x @ w["q_a_proj"].T + w.get("q_a_proj.bias", 0), w["q_a_layernorm"]) @ w["q_b_proj"].T
    compressed = x @ w["kv_a_proj_with_mqa"].T + w.get("kv_a_proj_with_mqa.bias", 0)
    c, k_rope = rms(compressed[:, :LATENT], w["kv_a_layernorm"]), turned(compressed[:, LATENT:], interleaved)
    mixed = []
    for h in range(HEADS):
        q_nope, q_rope = np.split(q[:, h * (NOPE + ROPE) : (h + 1) * (NOPE + ROPE)], [NOPE], axis=1)
        k_nope = c @ w["kv_b_proj_key"][h * NOPE : (h + 1) * NOPE].T
        scores = SCALE * (q_nope @ k_nope.T + turned(q_rope, interleaved) @ k_rope.T)
        weight = np.tril(np.exp(scores))
        mixed.append(weight / weight.sum(-1, keepdims=True) @ (c @ w["kv_b_proj_value"][h * VALUE : (h + 1) * VALUE].T))
    return [np.concatenate(mixed, axis=1) @ w["o_proj"].T + w.get("o_proj.bias", 0), np.hstack([c, k_rope])]


def empty(batch: int) -> list[np.ndarray]:
    return [np.zeros((batch, 1, 0, LATENT + ROPE), np.float32)]


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("form", FORMS)
def test_a_form_computes_what_the_paper_says(form: str, query: str, interleaved: bool) -> None:
    (x,) = normals("float32", (2, 7, HIDDEN))
    mixed, cache = attend(block(form, query, interleaved), TABLES, x, empty(2), np.ones((2, 7), np.int64))
    for row in range(2):
        theirs, their_cache = expected(query, interleaved, x[row])
        assert error(mixed[row], theirs) < 2e-6
        assert error(cache[row, 0], their_cache) < 2e-6


@pytest.mark.parametrize("past", [0, 4])
@pytest.mark.parametrize("query", QUERIES)
def test_both_forms_give_the_same_numbers(query: str, past: int) -> None:
    x, cache = normals("float32", (3, 5, HIDDEN), (3, 1, past, LATENT + ROPE))
    mask = np.ones((3, past + 5), np.int64)
    mask[0, :2] = 0
    absorbed, expanded = (attend(block(form, query), TABLES, x, [cache], mask) for form in FORMS)
    seen = np.s_[1:] if past == 0 else np.s_[:]  # a padded query that sees nothing mixes what it likes
    assert error(absorbed[0][seen], expanded[0][seen]) < 2e-6
    assert np.array_equal(absorbed[1], expanded[1])


@pytest.mark.parametrize("form", FORMS)
def test_the_cache_is_the_latent_and_stands_for_the_tokens_that_made_it(form: str) -> None:
    (x,) = normals("float32", (2, 8, HIDDEN))
    whole, cache = attend(block(form), TABLES, x, empty(2), np.ones((2, 8), np.int64))
    _, first = attend(block(form), TABLES, x[:, :5], empty(2), np.ones((2, 5), np.int64))
    rest, both = attend(block(form), TABLES, x[:, 5:], [first], np.ones((2, 8), np.int64))
    assert error(rest, whole[:, 5:]) < 1e-6
    assert cache.shape == both.shape == (2, 1, 8, LATENT + ROPE)


def test_both_forms_read_the_same_bytes() -> None:
    absorbed, expanded = ({p.name: p.shape for p in block(form).parameters()} for form in FORMS)
    assert absorbed.keys() == expanded.keys()
    assert {n: np.prod(s) for n, s in absorbed.items()} == {n: np.prod(s) for n, s in expanded.items()}
    assert (absorbed["kv_b_proj_key"], expanded["kv_b_proj_key"]) == ((HEADS, NOPE, LATENT), (HEADS * NOPE, LATENT))
