"""Route against a loop over tokens and experts in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_run import compute, error, normals

from porter.dialect import ROUTE

PLAIN = {"scoring": "softmax", "top_k": 2, "normalize": 0, "scale": 1.0}
GROUPED = {"scoring": "sigmoid", "top_k": 3, "normalize": 1, "epsilon": 1e-20, "scale": 2.5}
RULES: dict[str, dict[str, Any]] = {
    "mixtral": PLAIN | {"experts": 8, "normalize": 1},
    "one expert": PLAIN | {"experts": 1, "top_k": 1},
    "all of them": PLAIN | {"experts": 5, "top_k": 5},
    "scaled": PLAIN | {"experts": 7, "scale": 16.0},
    "best groups": PLAIN | {"experts": 12, "groups": 4, "top_groups": 2, "group_score": "max", "top_k": 4},
    "a sum that may be too small": PLAIN | {"experts": 8, "normalize": 1, "least": 0.5},
    "sigmoid": GROUPED | {"experts": 6},
    "best pairs": GROUPED | {"experts": 8, "groups": 4, "top_groups": 2, "group_score": "top2"},
    "one group of three": GROUPED | {"experts": 9, "groups": 3, "top_groups": 1, "group_score": "top2"},
    "all groups": GROUPED | {"experts": 8, "groups": 2, "top_groups": 2, "group_score": "top2"},
    "not normalised": GROUPED | {"experts": 8, "groups": 2, "top_groups": 1, "group_score": "max", "normalize": 0},
}


def scored(logits: np.ndarray, scoring: str) -> np.ndarray:
    if scoring == "sigmoid":
        return 1 / (1 + np.exp(-logits.astype(np.float64)))
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def allowed(choice: np.ndarray, rule: dict[str, Any]) -> list[int]:
    """The experts of the best groups for one token; a group counts by its best expert or its two best."""
    count, best = rule.get("groups", 1), {"max": 1, "top2": 2}[rule.get("group_score", "max")]
    groups = np.arange(rule["experts"]).reshape(count, -1)
    worth = [np.sort(choice[group])[-best:].sum() for group in groups]
    kept = sorted(range(count), key=lambda g: -worth[g])[: rule.get("top_groups", 1)]
    return [expert for g in kept for expert in groups[g]]


def route(logits: np.ndarray, bias: np.ndarray | None, rule: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    weights, experts = [], []
    for scores in scored(logits, rule["scoring"]):
        choice = scores if bias is None else scores + bias
        chosen = sorted(allowed(choice, rule), key=lambda e: -choice[e])[: rule["top_k"]]
        total = max(scores[chosen].sum(), rule.get("least", 0.0)) if rule["normalize"] else 1.0
        weights.append(scores[chosen] / total * rule["scale"])
        experts.append(chosen)
    return np.array(weights), np.array(experts)


def computed(logits: np.ndarray, bias: np.ndarray | None, rule: dict[str, Any]) -> list[np.ndarray]:
    if bias is None:
        return compute(lambda graph, x: ROUTE(graph, x, None, **rule), logits)
    return compute(lambda graph, x, b: ROUTE(graph, x, b, **rule), logits, bias)


@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("count", [1, 5, 64])
@pytest.mark.parametrize("name", RULES)
def test_each_token_gets_its_experts_and_their_weights(name: str, count: int, biased: bool) -> None:
    rule = RULES[name]
    logits, bias = normals("float32", (count, rule["experts"]), (rule["experts"],))
    weights, experts = computed(logits, bias if biased else None, rule)
    expected_weights, expected = route(logits, bias if biased else None, rule)
    assert np.array_equal(experts, expected)
    assert error(weights, expected_weights) < 1e-6
    assert (weights.dtype, experts.dtype) == (np.float32, np.int64)


def test_the_bias_changes_the_choice_and_not_the_weights() -> None:
    logits = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    rule = GROUPED | {"experts": 4, "top_k": 2, "normalize": 0, "scale": 1.0}
    _, without = computed(logits, np.zeros(4, np.float32), rule)
    weights, experts = computed(logits, np.array([5, 4, 0, 0], np.float32), rule)
    assert without.tolist() == [[3, 2]]
    assert experts.tolist() == [[0, 1]]
    assert weights[0].tolist() == pytest.approx([0.5, 1 / (1 + np.exp(-1))], rel=1e-6)


def test_experts_outside_the_best_groups_lose_even_to_negative_scores() -> None:
    """Scores are above zero, but a score plus its bias need not be: zero for what is excluded would win here."""
    logits = np.zeros((1, 4), np.float32)
    rule = GROUPED | {"experts": 4, "groups": 2, "top_groups": 1, "group_score": "top2", "top_k": 2}
    _, experts = computed(logits, np.array([-1, -2, -3, -3], np.float32), rule)
    assert experts.tolist() == [[0, 1]]


def test_weights_that_are_all_nearly_zero_are_still_numbers() -> None:
    logits = np.full((1, 4), -200.0, np.float32)
    weights, _ = computed(logits, np.zeros(4, np.float32), GROUPED | {"experts": 4})
    assert np.isfinite(weights).all()


@pytest.mark.parametrize("normalize", [0, 1])
def test_normalised_weights_sum_to_the_scale(normalize: int) -> None:
    (logits,) = normals("float32", (6, 8))
    weights, _ = computed(logits, None, GROUPED | {"experts": 8, "normalize": normalize})
    assert np.allclose(weights.sum(-1), 2.5, rtol=1e-6) == bool(normalize)


def by_body(number: int, arrays: list[np.ndarray], rule: dict[str, Any]) -> list[np.ndarray]:
    """What one body computes: the first has TopK, the second finds the best in rounds."""
    bias = (lambda values: values) if len(arrays) == 2 else (lambda values: (*values, None))
    return compute(lambda graph, *values: ROUTE.bodies[number].build(graph, *bias(values), **rule), *arrays)


@pytest.mark.parametrize("levels", [None, 3, 1], ids=["no ties", "ties", "all the same"])
@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("name", RULES)
def test_without_topk_the_choice_is_the_same_number_for_number(name: str, biased: bool, levels: int | None) -> None:
    """Of equals both take the one with the lower index."""
    rule = RULES[name]
    logits, bias = normals("float32", (40, rule["experts"]), (rule["experts"],))
    if levels is not None:
        logits, bias = np.round(logits * (levels - 1) / 2), np.zeros_like(bias)
    arrays = [logits, bias] if biased else [logits]
    (weights, experts), (other_weights, other) = (by_body(number, arrays, rule) for number in (0, 1))
    assert np.array_equal(other, experts)
    assert np.array_equal(other_weights, weights) or error(other_weights, weights) < 1e-6
