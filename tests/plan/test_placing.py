"""`porter plan --routes`: experts are placed by routes that were recorded, and told of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import ROOT, run
from models import LLAMA, write
from placement import skewed

from porter.plan.placement import SIMPLE, place
from porter.plan.room import Room
from porter.plan.routes import read_routes

CARD = """
name = "mine"
memory_bytes = {memory}
memory_bandwidth = 1e12
rates = {{ bfloat16 = 1e14 }}
dtypes = ["bfloat16"]

[link]
name = "wire"
bandwidth = 1e11
directions = 1
cards = 2
between_nodes = 1e10
"""
MODEL = ROOT / "samples" / "deepseek_v3"  # of 12 experts in two of its three layers a token is given four
FORM: dict[str, Any] = {"format": 1, "experts": 12, "prompts": "file", "layers": [1, 2]}


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """Two to a node."""
    (tmp_path / "mine.toml").write_text(CARD.format(memory=16_000_000_000))
    return tmp_path / "mine.toml"


@pytest.fixture
def routes(tmp_path: Path) -> Path:
    return save(tmp_path / "routes.npz", port=two_layers())


def two_layers() -> np.ndarray:
    return np.stack([skewed(seed, 1.0, tokens=300, experts=12, top_k=4, clusters=3) for seed in (1, 2)])


def save(path: Path, **changed: Any) -> Path:
    np.savez(path, **{name: value for name, value in (FORM | changed).items() if value is not None})
    return path


def planned(card: Path, routes: Path, *more: object) -> dict[str, Any]:
    (found,) = run("plan", MODEL, "--target", card, "--routes", routes, *more, "--json").json()["candidates"]
    return found


# ------------------------------------------------------------------------------ the answer


def test_experts_of_every_layer_lie_where_the_routes_go(card: Path, routes: Path) -> None:
    found = planned(card, routes, "--ep", 4)["placement"]
    assert (found["cards"], found["nodes"], found["cards_per_node"], found["slots"], found["replicas"]) == (
        4,
        2,
        2,
        3,
        0,
    )
    assert (found["tokens"], found["side"], found["prompts"]) == (300, "port", "file")
    layers = {layer["layer"]: layer for layer in found["layers"]}
    for (number, layer), chosen in zip(layers.items(), two_layers(), strict=True):
        laid = place(chosen, 12, Room(4, 3, 2))
        assert number in (1, 2)
        assert [tuple(one) for one in layer["experts"]] == list(laid.cards)
        assert (layer["load"]["max"], layer["traffic"]["nodes"]) == (float(laid.most), float(laid.traffic.nodes))
        counts = [sum(int((chosen == expert).sum()) for expert in one) for one in layer["experts"]]
        assert max(counts) == layer["load"]["max"]
    assert found["load"]["max"] == sum(layer["load"]["max"] for layer in layers.values())
    assert found["load"]["gap"] == pytest.approx(found["load"]["max"] / found["load"]["bound"] - 1)


def test_simpler_placements_stand_beside_it(card: Path, routes: Path) -> None:
    found = planned(card, routes, "--ep", 4)["placement"]
    assert set(found["simple"]) == set(SIMPLE)
    assert all(found["load"]["max"] <= one["load"]["max"] for one in found["simple"].values())


def test_bytes_over_links_are_those_of_the_routes(card: Path, routes: Path) -> None:
    """One exchange there and one back, of 54 numbers in bfloat16, in two layers, to as many other groups."""
    found = planned(card, routes, "--ep", 4)["placement"]
    assert found["link_bytes_per_token"] == pytest.approx(2 * 2 * 54 * 2 * found["traffic"]["cards"], abs=0.1)


def test_copies_are_of_the_hottest_and_take_memory(card: Path, routes: Path) -> None:
    plain, more = (planned(card, routes, "--ep", 4, "--replicas", n) for n in (0, 1))
    assert more["experts_per_card"] == plain["experts_per_card"] + 1 == 4
    assert more["bytes"]["weights"] - plain["bytes"]["weights"] == 2 * 3 * 54 * 22 * 2  # in two layers, an expert each
    assert more["placement"]["replicas"] == 4
    assert more["placement"]["load"]["max"] <= plain["placement"]["load"]["max"]
    for layer, chosen in zip(more["placement"]["layers"], two_layers(), strict=True):
        copies = np.bincount([expert for one in layer["experts"] for expert in one], minlength=12)
        counts = np.bincount(chosen.reshape(-1), minlength=12)
        assert copies.sum() == 16
        assert copies[counts.argmax()] == copies.max() > 1


def test_copies_that_do_not_fit_make_no_plan(card: Path, routes: Path) -> None:
    plain = planned(card, routes, "--ep", 4, "--batch", 4)
    card.write_text(CARD.format(memory=plain["bytes_per_card"]))
    assert planned(card, routes, "--ep", 4, "--batch", 4)["fits"]
    refused = planned(card, routes, "--ep", 4, "--batch", 4, "--replicas", 1)
    assert not refused["fits"]
    assert "a card would hold" in refused["reason"]


def test_where_experts_are_not_divided_there_is_nothing_to_place(card: Path, routes: Path) -> None:
    assert planned(card, routes, "--tp", 1)["placement"] is None


def test_without_routes_a_plan_says_nothing_of_it(card: Path) -> None:
    (found,) = run("plan", MODEL, "--target", card, "--ep", 4, "--json").json()["candidates"]
    assert "placement" not in found


def test_the_original_counts_where_a_port_does_not_tell(card: Path, tmp_path: Path) -> None:
    assert read_routes(save(tmp_path / "routes.npz", original=two_layers())).side == "original"


# ------------------------------------------------------------------------------ how it is told


def test_it_is_told_and_explained(card: Path, routes: Path) -> None:
    told = run("plan", MODEL, "--target", card, "--ep", 4, "--routes", routes, "--explain").out
    words = " ".join(told.split())
    assert "experts on the cards, by the routes of the prompts" in words
    assert all(name in words for name in ("by the routes", "round robin", "greedy", "in order"))
    found = planned(card, routes, "--ep", 4, "--explain")
    lines = {line["what"]: line["value"] for line in found["explain"]}
    load = found["placement"]["load"]
    assert lines["experts: fullest card over mean"] == f"{load['max_over_mean']:.4f}"
    assert lines["experts: above the bound"] == f"{load['gap']:.2%}"


def test_a_placement_is_written_for_others_to_follow(card: Path, routes: Path, tmp_path: Path) -> None:
    file = tmp_path / "placement.json"
    found = planned(card, routes, "--tp", 1, "--ep", 4, "--save-placement", file)
    document = json.loads(file.read_text())
    assert document["layers"] == {str(one["layer"]): one["experts"] for one in found["placement"]["layers"]}
    assert (document["schema_version"], document["model_type"], document["device"]) == (1, "deepseek_v3", "mine")
    assert (document["tp"], document["ep"], document["pp"], document["slots"], document["replicas"]) == (1, 4, 1, 3, 0)
    assert re.fullmatch("[0-9a-f]{64}", document["routes_sha256"])


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.with_name("none.npz"), "cannot be read"),
        (lambda path: path.write_bytes(b"no file of NumPy's") and path, "is no file of routes"),
        (lambda path: save(path), "is no file of routes"),
        (lambda path: save(path, port=two_layers(), format=2), "has format 2"),
        (lambda path: save(path, port=two_layers() + 1), "expert 12 is none of 12"),
        (lambda path: save(path, port=two_layers()[0]), "routes of shape (300, 4)"),
        (lambda path: save(path, port=two_layers() * 1.0), "in float64 are none"),
        (lambda path: save(path, port=two_layers() * 0), "the same expert twice"),
        (lambda path: save(path, port=np.array([{}]), experts=12), "is no file of routes"),
        (lambda path: save(path, port=two_layers(), layers=[0, 1]), "layer 0 is only in one of them"),
        (lambda path: save(path, port=two_layers()[:1], layers=[2]), "layer 1 is only in one of them"),
        (lambda path: save(path, port=two_layers()[..., :3]), "3 of 12 experts, the model 4 of 12"),
    ],
)
def test_routes_that_are_none_are_refused(make: Callable[[Path], Path], says: str, card: Path, tmp_path: Path) -> None:
    refused = run("plan", MODEL, "--target", card, "--routes", make(tmp_path / "routes.npz"))
    assert says in refused.refusal()


def test_a_dense_model_has_nothing_to_place(card: Path, routes: Path, tmp_path: Path) -> None:
    refused = run("plan", write(tmp_path / "llama", LLAMA), "--target", card, "--routes", routes)
    assert "no routed experts" in refused.refusal()


def test_copies_without_routes_are_refused(card: Path) -> None:
    assert "which only routes tell" in run("plan", MODEL, "--target", card, "--replicas", 1).refusal()


@pytest.mark.parametrize("more", [("--ep", "4"), ("--routes", "--cards", "2,4"), ("--routes", "--tp", "1")])
def test_a_placement_is_of_one_split(more: tuple[str, ...], card: Path, routes: Path, tmp_path: Path) -> None:
    options = [*more[:1], *([routes] if more[0] == "--routes" else []), *more[1:]]
    refused = run("plan", MODEL, "--target", card, *options, "--save-placement", tmp_path / "p.json", "--json")
    assert "of this plan have a placement of experts" in refused.refusal()
