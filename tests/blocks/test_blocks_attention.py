"""Grouped-query attention against matrix products in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_run import attend, error, normals, random_weights

from porter.blocks.attention import GroupedQueryAttention, NormedGroupedQueryAttention
from porter.blocks.rope import Rope

HIDDEN, HEAD = 12, 6
ROPE = Rope(HEAD, 1e4, 32)
PLAIN: dict[str, Any] = {"hidden_size": HIDDEN, "heads": 4, "groups": 2, "head_dim": HEAD}
BLOCKS: dict[str, tuple[type[GroupedQueryAttention], dict[str, Any]]] = {
    "grouped": (GroupedQueryAttention, PLAIN),
    "one group": (GroupedQueryAttention, PLAIN | {"groups": 1}),
    "a group each": (GroupedQueryAttention, PLAIN | {"groups": 4}),
    "biases": (GroupedQueryAttention, PLAIN | {"qkv_bias": True, "output_bias": True}),
    "input biases": (GroupedQueryAttention, PLAIN | {"qkv_bias": True}),
    "window": (GroupedQueryAttention, PLAIN | {"window": 3}),
    "normed": (NormedGroupedQueryAttention, PLAIN | {"epsilon": 1e-2}),
    "normed, window, biases": (
        NormedGroupedQueryAttention,
        PLAIN | {"epsilon": 1e-6, "window": 2, "qkv_bias": True, "output_bias": True},
    ),
}


def block(name: str) -> GroupedQueryAttention:
    cls, parameters = BLOCKS[name]
    return cls(**parameters)


def turned(x: np.ndarray) -> np.ndarray:
    """Features i and i + half as a complex number, turned by position times frequency."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[2])[:, None] * 1e4 ** (-np.arange(half) / half)
    both = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([both.real, both.imag], axis=-1)


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def expected(name: str, x: np.ndarray) -> list[np.ndarray]:
    """The mixed values, the keys and the values of a whole sequence."""
    one, options = block(name), BLOCKS[name][1]
    weights = {
        n.partition(".")[2]: w.astype(np.float64) for n, w in random_weights(one.parameters("attention")).items()
    }

    def heads(kind: str) -> np.ndarray:
        y = x @ weights[f"{kind}_proj.weight"].T + weights.get(f"{kind}_proj.bias", 0)
        y = y.reshape(*x.shape[:2], -1, HEAD).transpose(0, 2, 1, 3)
        norm = np.sqrt((y**2).mean(-1, keepdims=True) + options.get("epsilon", 0))
        return y / norm * weights[f"{kind}_norm.weight"] if f"{kind}_norm.weight" in weights else y

    q, k, v = turned(heads("q")), turned(heads("k")), heads("v")
    share = q.shape[1] // k.shape[1]
    scores = q @ k.repeat(share, axis=1).swapaxes(2, 3) / np.sqrt(HEAD)
    distance = np.arange(x.shape[1])[:, None] - np.arange(x.shape[1])
    scores[..., (distance < 0) | (distance >= options.get("window", 99))] = -np.inf
    mixed = (softmax(scores) @ v.repeat(share, axis=1)).transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1)
    return [mixed @ weights["o_proj.weight"].T + weights.get("o_proj.bias", 0), k, v]


def empty(name: str, batch: int) -> list[np.ndarray]:
    return [np.zeros((batch, e.heads, 0, e.width), np.float32) for e in block(name).cache]


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 7)], ids=str)
def test_it_mixes_values_as_the_formula_says(name: str, shape: tuple[int, int]) -> None:
    (x,) = normals("float32", (*shape, HIDDEN))
    got = attend(block(name), ROPE, x, empty(name, shape[0]), np.ones(shape, np.int64))
    for mine, theirs in zip(got, expected(name, x), strict=True):
        assert error(mine, theirs) < 2e-6


@pytest.mark.parametrize("name", BLOCKS)
def test_a_cache_stands_for_the_tokens_that_made_it(name: str) -> None:
    (x,) = normals("float32", (2, 8, HIDDEN))
    whole, *_ = attend(block(name), ROPE, x, empty(name, 2), np.ones((2, 8), np.int64))
    _, *cache = attend(block(name), ROPE, x[:, :5], empty(name, 2), np.ones((2, 5), np.int64))
    rest, *_ = attend(block(name), ROPE, x[:, 5:], cache, np.ones((2, 8), np.int64))
    assert error(rest, whole[:, 5:]) < 1e-6


@pytest.mark.parametrize("name", BLOCKS)
def test_padding_on_the_left_changes_nothing(name: str) -> None:
    (x,) = normals("float32", (1, 8, HIDDEN))
    alone, *_ = attend(block(name), ROPE, x[:, 3:], empty(name, 1), np.ones((1, 5), np.int64))
    padded, *_ = attend(block(name), ROPE, x, empty(name, 1), np.array([[0] * 3 + [1] * 5]))
    assert error(padded[:, 3:], alone) < 1e-6
    assert np.isfinite(padded).all()
