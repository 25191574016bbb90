"""`porter convert --placement`: experts lie elsewhere, and the numbers are the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from command import run

from porter.model import understand
from porter.places import read_places
from porter.weights import chunks

ORDERS = {"1": [[3, 7, 0, 11, 5, 9], [1, 2, 4, 6, 8, 10]], "2": [[11, 10, 9, 8, 7, 6], [5, 4, 3, 2, 1, 0]]}


def write(path: Path, **changed: Any) -> Path:
    path.write_text(json.dumps({"schema_version": 1, "ep": 2, "replicas": 0, "layers": ORDERS} | changed))
    return path


def convert(checkpoint: Path, placement: Path, port: Path, *more: object) -> Any:
    return run(
        *("convert", checkpoint, "--target", "onnxruntime-cpu", "--dtype", "float32", "-o", port),
        *("--placement", placement, "--json", *more),
    )


def verified(port: Path, checkpoint: Path, *more: object) -> dict[str, Any]:
    return run("verify", port, "--against", checkpoint, "--level", "semantics", "--json", *more).json()


@pytest.fixture(scope="module")
def placed(deepseek: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A port for one card, its experts in other places."""
    folder = tmp_path_factory.mktemp("placed")
    convert(deepseek, write(folder / "placement.json"), folder / "port").json()
    return folder / "port"


@pytest.mark.parametrize("level", ["weights", "semantics", "dtype"])
def test_parity_holds_with_experts_in_other_places(level: str, placed: Path, deepseek: Path) -> None:
    """Routes are compared by the numbers of the checkpoint, since the router still has them; so are groups."""
    document = run("verify", placed, "--against", deepseek, "--level", level, "--json").json()
    assert document["passed"], [c for one in document["levels"] for c in one["checks"] if c["status"] != "pass"]


def test_the_manifest_says_where_they_lie(placed: Path) -> None:
    manifest = json.loads((placed / "porter.json").read_text())
    assert manifest["placement"] == {n: [e for card in cards for e in card] for n, cards in ORDERS.items()}


def test_a_port_that_says_otherwise_than_it_is_fails(placed: Path, deepseek: Path, tmp_path: Path) -> None:
    port = Path(shutil.copytree(placed, tmp_path / "port"))
    manifest = json.loads((port / "porter.json").read_text())
    manifest["placement"]["1"] = list(range(12))
    (port / "porter.json").write_text(json.dumps(manifest))
    assert run("verify", port, "--against", deepseek, "--level", "weights", "--json").code == 1


def test_each_card_of_a_split_port_has_the_experts_of_its_list(deepseek: Path, tmp_path: Path) -> None:
    convert(deepseek, write(tmp_path / "placement.json"), tmp_path / "port", "--ep", 2).json()
    document = verified(tmp_path / "port", deepseek, "--tokens", 2)
    assert document["passed"], [c for one in document["levels"] for c in one["checks"] if c["status"] != "pass"]


@pytest.mark.parametrize("fused", [False, True])
def test_weights_are_stacked_in_the_order_of_the_places(fused: bool, tmp_path: Path) -> None:
    """Whether a checkpoint has a tensor for each expert or one for all."""
    folder = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample("deepseek_v3"), fused=fused)
    places = read_places(write(tmp_path / "placement.json"), 2)
    found = []
    for one in (None, places):
        model = understand(folder, places=one)
        weights = {w.parameter.name: w for w in model.binding.weights}
        for part in ("gate_up_proj", "down_proj"):
            weight = weights[f"model.layers.1.mlp.experts.{part}"]
            numbers = np.concatenate([c.reshape(-1) for c in chunks(weight, model.source, np.dtype(np.float32))])
            found.append(numbers.reshape(weight.parameter.shape))
    assert places is not None
    assert (found[2] == found[0][places["1"]]).all()
    assert (found[3] == found[1][places["1"]]).all()


@pytest.mark.parametrize(
    ("changed", "more", "says"),
    [
        ({"layers": 3}, (), "is no placement of experts"),
        ({"replicas": 4}, (), "has 4 copies of experts"),
        ({"ep": 3}, ("--ep", 2), "is for --ep 3, not 2"),
        ({"layers": {"1": ORDERS["1"]}}, (), "of other layers than have experts"),
        ({"layers": ORDERS | {"2": [[0, 1]]}}, (), "layer 2: the placement does not have each of 12 experts once"),
    ],
)
def test_a_placement_that_does_not_fit_is_refused(
    changed: dict[str, Any], more: tuple[object, ...], says: str, deepseek: Path, tmp_path: Path
) -> None:
    done = convert(deepseek, write(tmp_path / "placement.json", **changed), tmp_path / "port", *more)
    assert says in done.refusal()
    assert not (tmp_path / "port").exists()


def test_no_file_is_refused(deepseek: Path, tmp_path: Path) -> None:
    assert "cannot be read" in convert(deepseek, tmp_path / "none.json", tmp_path / "port").refusal()
