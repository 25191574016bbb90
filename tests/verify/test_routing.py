"""The original's routes are what it chose, and a forced route is what it takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from inside import inside

from porter.errors import ParityError
from porter.verify.original import Original
from porter.verify.part import Trace

MOE = ["mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v2-groups", "deepseek_v3"]
IDS = np.random.default_rng(0).integers(0, 97, (2, 11))


def other_routes(trace: Trace, groups: int = 1, top_groups: int = 1) -> dict[int, np.ndarray]:
    """Random routes within random groups, for every layer that has some."""
    rng, routes = np.random.default_rng(1), {}
    for layer, chosen in trace.routes.items():
        side = trace.choice[layer].shape[1] // groups
        allowed = [(rng.permutation(groups)[:top_groups, None] * side + np.arange(side)).ravel() for _ in chosen]
        routes[layer] = np.stack([rng.permutation(row)[: chosen.shape[1]] for row in allowed])
    return routes


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", MOE)
def test_forcing_its_own_routes_changes_no_bit(name: str, precision: str, original: Callable[..., Original]) -> None:
    free, _ = original(name, precision).run(IDS)
    forced, _ = original(name, precision).run(IDS, routes=free.routes)
    assert np.array_equal(free.logits, forced.logits)
    for layer in free.routes:
        assert np.array_equal(free.routes[layer], forced.routes[layer])
        assert np.array_equal(free.choice[layer], forced.choice[layer])


@pytest.mark.parametrize("name", MOE)
def test_the_routes_are_the_best_of_the_choice(name: str, original: Callable[..., Original]) -> None:
    trace, _ = original(name).run(IDS)
    assert list(trace.routes) == list(trace.choice) == list(trace.router_logits)
    for layer, routes in trace.routes.items():
        best = np.argsort(-trace.choice[layer], axis=-1)[:, : routes.shape[1]]
        assert np.array_equal(np.sort(best), np.sort(routes))
        assert trace.router_logits[layer].shape == trace.choice[layer].shape == (22, trace.choice[layer].shape[1])


def test_the_choice_of_v3_has_the_bias_and_the_group_mask(original: Callable[..., Original]) -> None:
    model = original("deepseek_v3")
    trace, _ = model.run(IDS)
    bias = inside(model).model.layers[1].mlp.gate.e_score_correction_bias.numpy()
    biased = 1 / (1 + np.exp(-trace.router_logits[1])) + bias
    open_ = np.isfinite(trace.choice[1])
    assert (open_.sum(-1) == 4).all()
    assert np.abs(biased[open_] - trace.choice[1][open_]).max() < 1e-14


@pytest.mark.parametrize("name", MOE)
def test_forced_routes_are_taken(name: str, original: Callable[..., Original]) -> None:
    free, _ = original(name).run(IDS)
    routes = other_routes(free)
    forced, _ = original(name).run(IDS, routes=routes)
    assert all(np.array_equal(forced.routes[layer], routes[layer]) for layer in routes)
    assert np.abs(free.logits - forced.logits).max() > 1e-2
    assert np.array_equal(original(name).run(IDS)[0].logits, free.logits)


def test_forced_experts_are_weighed_by_their_scores(original: Callable[..., Original]) -> None:
    model = original("mixtral")
    routes = other_routes(model.run(IDS)[0])
    seen = []
    hook = inside(model).model.layers[0].mlp.gate.register_forward_hook(lambda *call: seen.append(call[2]))
    trace, _ = model.run(IDS, routes=routes)
    hook.remove()
    scores = np.take_along_axis(np.exp(trace.router_logits[0]), routes[0], -1)
    _, weights, experts = seen[0]
    assert np.array_equal(experts.numpy(), routes[0])
    assert np.abs(weights.numpy() - scores / scores.sum(-1, keepdims=True)).max() < 1e-15


def test_only_the_layers_given_are_forced(original: Callable[..., Original]) -> None:
    free, _ = original("qwen3_moe").run(IDS)
    routes = other_routes(free)
    forced, _ = original("qwen3_moe").run(IDS, routes={1: routes[1]})
    assert np.array_equal(forced.layers[0], free.layers[0])
    assert np.array_equal(forced.routes[0], free.routes[0])
    assert np.array_equal(forced.routes[1], routes[1])


def test_forcing_opens_the_groups_that_it_needs(
    checkpoint: Callable[[str], Path], original: Callable[..., Original], tmp_path: Path
) -> None:
    # Without groups the same weights give every expert its score, so that is what a forced one must have.
    folder = shutil.copytree(checkpoint("deepseek_v2-groups"), tmp_path / "plain")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"topk_method": "greedy"}))
    grouped, plain = original("deepseek_v2-groups"), Original(folder, "float64")
    routes = other_routes(grouped.run(IDS)[0], groups=4, top_groups=2)
    assert np.array_equal(grouped.run(IDS, routes=routes)[0].logits, plain.run(IDS, routes=routes)[0].logits)


def test_routes_are_forced_step_by_step_too(original: Callable[..., Original]) -> None:
    whole, _ = original("deepseek_v3").run(IDS[:1])
    routes = other_routes(whole)
    forced, _ = original("deepseek_v3").run(IDS[:1], routes=routes)
    past = None
    for step in range(IDS.shape[1]):
        trace, past = original("deepseek_v3").run(
            IDS[:1, step : step + 1], past=past, routes={1: routes[1][step : step + 1]}
        )
        assert np.abs(trace.logits[0, 0] - forced.logits[0, step]).max() < 1e-12


def test_a_dense_model_has_no_routes(original: Callable[..., Original]) -> None:
    trace, _ = original("llama").run(IDS)
    assert trace.routes == trace.choice == trace.router_logits == {}


@pytest.mark.parametrize(
    ("routes", "says"),
    [
        ({0: np.zeros((22, 3))}, "layer 0, which has no router"),
        ({1: np.zeros((21, 3))}, r"shape \(21, 3\) do not fit"),
        ({1: np.full((22, 3), 8)}, "do not fit"),
    ],
)
def test_routes_that_do_not_fit_are_refused(
    routes: dict[int, np.ndarray], says: str, original: Callable[..., Original]
) -> None:
    with pytest.raises(ParityError, match=says):
        original("deepseek_v3").run(IDS, routes=routes)
    assert original("deepseek_v3").run(IDS)[0].routes[1].shape == (22, 3)
