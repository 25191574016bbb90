"""How the gate decides, on hand-made numbers; and what it asks: the stories, and the graph in float32."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny
from command import run

from porter.graph import all_nodes
from porter.port import convert
from porter.verify.findings import LIMIT, Comparison, ratio_check, within_noise
from porter.verify.scenarios import PROMPT, SHORTEST, Scenario, scenarios
from porter.verify.semantics import Semantics
from porter.verify.widen import widen

# ------------------------------------------------------------------ how much is too much


def compared(port: Sequence[float], own: Sequence[float], exact: Sequence[float]) -> Comparison:
    comparison = Comparison()
    comparison.add(np.float32(port), np.float32(own), np.array(exact))
    return comparison


def test_the_ratio_is_of_root_mean_squares() -> None:
    comparison = compared([1 + 3e-3, 2], [1 + 1e-3, 2], [1, 2])
    comparison.add(np.float32([3]), np.float32([3]), np.array([3.0]))
    assert comparison.ratio() == pytest.approx(3, rel=1e-3)


def test_an_original_without_error_still_allows_rounding() -> None:
    exact = [1.0, -2.0, 4.0]
    assert compared(np.nextafter(np.float32(exact), np.float32(9)).tolist(), exact, exact).ratio() < LIMIT
    assert compared([1.001, -2, 4], exact, exact).ratio() > 1000


def test_zeros_on_all_sides_are_equal() -> None:
    assert compared([0], [0], [0]).ratio() == 0


def test_the_worst_place_counts() -> None:
    places = {
        "0": compared([1.001], [1.001], [1]),
        "1": compared([1.5], [1.001], [1]),
        "2": compared([1], [1.001], [1]),
    }
    check = ratio_check("layers", places)
    assert (check.status, check.detail) == ("fail", "worst at 1")
    places["1"] = compared([1.002], [1.001], [1])
    assert ratio_check("layers", places).status == "pass"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_in_the_port_fails(value: float) -> None:
    check = ratio_check("layers", {"0": compared([value], [1], [1]), "1": compared([1], [1], [1])})
    assert (check.status, check.detail) == ("fail", "worst at 0")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_in_the_original_decides_nothing(value: float) -> None:
    assert ratio_check("layers", {"0": compared([1], [value], [1])}).status == "inconclusive"
    assert ratio_check("layers", {"0": compared([1], [1], [value])}).status == "inconclusive"
    assert ratio_check("layers", {"0": Comparison()}).status == "inconclusive"  # nothing was compared


# ------------------------------------------------------------------ near-ties of routers


@pytest.mark.parametrize(
    ("exact", "top_k", "near"),
    [
        ([0.9, 0.5, 0.1], 1, False),
        ([0.9, 0.9 - 1.9e-3, 0.1], 1, True),  # apart by less than twice the noise
        ([0.9, 0.9 - 2.1e-3, 0.1], 1, False),
        ([0.5, 0.9, 0.5 - 1e-3], 2, True),  # of second and third, in whatever order
        ([0.9, 0.9, 0.1], 2, False),  # a tie of two that are both chosen changes nothing
        ([0.9, 0.9, 0.9], 3, False),  # all are chosen
        ([0.9, 0.5, -math.inf], 2, False),  # outside the group limit
    ],
)
def test_near_ties_are_within_the_noise_of_the_original(exact: list[float], top_k: int, near: bool) -> None:
    scores = np.array([exact, [0.9, 0.5, 0.1]])
    own = scores + np.array([[0, 0, 0], [0, 0, 1e-3]])  # the largest rounding is that of another token
    assert within_noise(scores, own, top_k).tolist() == [near, False]


def test_an_exact_tie_may_go_either_way() -> None:
    scores = np.array([[0.5, 0.5, 0.1]])
    assert within_noise(scores, scores, 1).all()


# ------------------------------------------------------------------ greedy decoding


def greedy(port: list[list[float]], exact: list[list[float]], own: list[list[float]]) -> tuple[bool, str]:
    """What comes of a port with these logits, step by step."""
    steps = iter(port)
    asked = []

    def run(ids: np.ndarray, positions: np.ndarray, mask: np.ndarray, past: object) -> tuple[Any, None]:
        asked.append((ids.tolist(), positions.tolist()))
        return SimpleNamespace(logits=np.array([[next(steps)]])), None

    wide = np.array(exact)
    sides: list[Any] = [
        SimpleNamespace(greedy=lambda prompt, n, a=a: (wide.argmax(-1), np.array(a))) for a in (exact, own)
    ]
    session: Any = SimpleNamespace(run=run)
    match, check = Semantics(session, *sides, lambda *_: ()).greedy(session, np.array([[7, 8]]), len(exact))
    assert asked[0] == ([[7, 8]], [[0, 1]])
    assert [ids for ids, _ in asked[1:]] == [[[n]] for n in wide.argmax(-1)[: len(asked) - 1]]
    return match, check.status


EXACT = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.501]]
OWN = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]


def test_equal_tokens() -> None:
    assert greedy([[3, 1], [1, 3], [1, 3]], EXACT, OWN) == (True, "pass")


def test_a_choice_that_rounding_could_have_made_passes_without_being_a_match() -> None:
    assert greedy([[3, 1], [1, 3], [3, 1]], EXACT, OWN) == (False, "pass")


def test_another_token_fails() -> None:
    assert greedy([[3, 1], [3, 1]], EXACT, OWN) == (False, "fail")


# ------------------------------------------------------------------ the stories


def told(limit: int | None, steps: int, window: int | None = None) -> dict[str, Scenario]:
    boundaries = [b for b in (8, 16, 256) if limit is None or b <= limit]
    found = scenarios(50, boundaries, limit, window, steps, beyond=limit is None)
    return {scenario.name: scenario for scenario in found}


@pytest.mark.parametrize(("limit", "steps"), [(8, 4), (12, 8), (16, 8), (33, 8), (256, 8), (256, 252), (None, 8)])
def test_no_story_leaves_the_positions(limit: int | None, steps: int) -> None:
    for scenario in told(limit, steps).values():
        for call in scenario.calls:
            assert call.input_ids.shape == call.position_ids.shape == call.mask.shape
            assert call.input_ids.size
            assert call.position_ids.min() >= 0
            assert limit is None or call.position_ids.max() < limit


@pytest.mark.parametrize("limit", [SHORTEST + 8, 30, None])
def test_every_way_of_being_called_is_told(limit: int | None) -> None:
    found = told(limit, 8)
    length = found["prefill"].calls[0].input_ids.shape[1]
    assert length == (PROMPT if limit is None else min(PROMPT, limit - 8))
    assert [c.input_ids.shape[1] for c in found["decode"].calls[1:]] == [1] * 8
    chunks = [c.input_ids.shape[1] for c in found["chunked"].calls]
    assert sum(chunks) == length
    assert 1 in chunks[1:-1] or length < 6
    assert (found["padded"].calls[0].mask[:, 0].tolist(), len(found["padded"].calls)) == ([1, 0, 0], 2)
    assert "RoPE at 8" in found


@pytest.mark.parametrize(("boundary", "limit", "beyond"), [(16, 256, True), (256, 256, False), (256, None, True)])
def test_the_positions_cross_the_boundary(boundary: int, limit: int | None, beyond: bool) -> None:
    first, second = told(limit, 8)[f"RoPE at {boundary}"].calls
    assert first.position_ids.min() == 0
    assert boundary - 1 in second.position_ids
    assert (second.position_ids >= boundary).any() == beyond


@pytest.mark.parametrize(("window", "gap"), [(3, 0), (40, 28), (4096, 4084)])
def test_a_window_is_left_whatever_its_size(window: int, gap: int) -> None:
    first, second = told(None, 8, window)[f"window of {window}"].calls
    assert (first.gap, second.gap) == (0, gap)
    places = first.input_ids.shape[1] + gap + second.input_ids.shape[1]
    assert places > window


def test_a_model_of_few_positions_can_be_verified(tmp_path: Path) -> None:
    config = tiny.sample("llama", max_position_embeddings=14, rope_scaling=..., num_hidden_layers=1)
    tiny.write_checkpoint(tmp_path / "checkpoint", config)
    convert(tmp_path / "checkpoint", "onnxruntime-cpu", tmp_path / "port")
    command = ["verify", tmp_path / "port", "--against", tmp_path / "checkpoint"]
    assert run(*command, "--json").code == 0
    refusal = run(*command, "--tokens", 11, "--json").refusal()
    assert "11 tokens" in refusal
    assert "--tokens 10" in refusal


# ------------------------------------------------------------------ a narrow port in float32


@pytest.mark.parametrize(("target", "dtype"), [("onnxruntime-cpu", "float16"), ("ascend-910b", "bfloat16")])
def test_widening_keeps_the_graph_node_for_node(target: str, dtype: str, deepseek: Path, tmp_path: Path) -> None:
    convert(deepseek, target, tmp_path / "port", dtype=dtype)
    model, before = (ir.from_proto(onnx.load(tmp_path / "port/model.onnx", load_external_data=False)) for _ in range(2))
    widen(model)

    def drawn(model: ir.Model) -> list[tuple[object, ...]]:
        return [
            (n.domain, n.op_type, n.name, [v and v.name for v in n.inputs], [v.name for v in n.outputs])
            for n in all_nodes(model.graph)
        ]

    assert drawn(model) == drawn(before)
    narrow = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    values += [value for node in all_nodes(model.graph) for value in node.outputs]
    bodies = [a.as_graph() for n in all_nodes(model.graph) for a in n.attributes.values() if a.name == "body"]
    values += [value for body in bodies for value in body.inputs]
    assert bool(bodies) == (target == "onnxruntime-cpu")  # the loop over experts
    assert not {value.dtype for value in values} & narrow
    assert not {n.attributes["to"].as_int() for n in all_nodes(model.graph) if "to" in n.attributes} & narrow
    assert {value.dtype for value in before.graph.inputs} & narrow


# ------------------------------------------------------------------ what cannot be decided


def test_an_original_that_overflows_is_inconclusive(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "checkpoint"))
    head = tiny.load_file(folder / "model.safetensors")["lm_head.weight"].clone()
    head[5] = 3e38  # infinite in float32, a number in float64
    tiny.edit_tensors(folder, add={"lm_head.weight": head})
    convert(folder, "onnxruntime-cpu", tmp_path / "port")
    found = run("verify", tmp_path / "port", "--against", folder, "--json")
    assert (found.code, found.json()["status"], found.json()["passed"]) == (3, "inconclusive", False)
    assert found.err == ""
