"""Mistakes that ports are made with are found, and clearly; test_faults_by_level.py has more of them, by level."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
from command import Outcome, run
from faults import BIAS, PLANTED
from surgery import graph_of, weight_of

from porter.port import convert

CLEAR = 1000.0  # times the original's own error: the limit is 10, and a mistake is no near miss
FAULTS = {
    name: PLANTED[name]
    for name in (
        "two-experts-swapped",
        "correction-bias-zero",
        "correction-bias-dropped",
        "routed-scaling-98-percent",
        "yarn-without-mscale",
        "rope-frequency-0.1-percent",
        "rms-epsilon-1e-5",
        "group-limit-ignored",
    )
}


@pytest.fixture
def copy(deepseek_port: Path, tmp_path: Path) -> Path:
    """A copy of a sound port."""
    return Path(shutil.copytree(deepseek_port, tmp_path / "port"))


def verify(port: Path, checkpoint: Path, level: str) -> Outcome:
    return run("verify", port, "--against", checkpoint, "--level", level, "--tokens", 4, "--json")


def test_the_copy_is_sound(copy: Path, deepseek: Path) -> None:
    with graph_of(copy), weight_of(copy, BIAS):  # written back and signed, but as they were
        pass
    found = verify(copy, deepseek, "all")
    assert (found.code, found.json()["passed"]) == (0, True), found


@pytest.mark.parametrize("name", FAULTS)
def test_the_comparison_finds(name: str, copy: Path, deepseek: Path) -> None:
    FAULTS[name].plant(copy)
    found = verify(copy, deepseek, "semantics")
    checks = found.json()["levels"][0]["checks"]
    ratios = [float(c["value"]) for c in checks if "routes" not in c["name"] and c["limit"] == 10]
    flips = [c["value"] for c in checks if "routes" in c["name"]]
    assert (found.code, found.json()["status"]) == (1, "fail")
    assert max(ratios) > CLEAR or sum(flips) > 10


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.weight])
def test_the_bytes_name_the_weight(name: str, copy: Path, deepseek: Path) -> None:
    FAULTS[name].plant(copy)
    found = verify(copy, deepseek, "weights")
    (check,) = [c for c in found.json()["levels"][0]["checks"] if c["status"] == "fail"]
    assert found.code == 1
    assert str(FAULTS[name].weight) in check["detail"]


@pytest.mark.parametrize(
    "change",
    [
        {"rms_norm_eps": 1e-5},
        {"routed_scaling_factor": 2.45},
        {"rope_theta": 10100},
        {"topk_group": 4},
        {"norm_topk_prob": False},
        {"rope_interleave": False},
        {"rope_scaling": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_port_of_another_config_is_found(change: dict[str, object], deepseek: Path, tmp_path: Path) -> None:
    """A mistake made while converting: every weight is right, and the port is not."""
    other = Path(shutil.copytree(deepseek, tmp_path / "checkpoint"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | change))
    convert(other, "onnxruntime-cpu", tmp_path / "port")
    assert verify(tmp_path / "port", deepseek, "semantics").code == 1


def test_an_epsilon_shows_although_the_embeddings_are_large(llama: Path, tmp_path: Path) -> None:
    """Against values near one, an epsilon of 1e-5 for 1e-6 is rounding: the faint scenario makes them small."""
    loud, other = (Path(shutil.copytree(llama, tmp_path / name)) for name in ("loud", "other"))
    for folder, epsilon in ((loud, 1e-6), (other, 1e-5)):
        table = tiny.load_file(folder / "model.safetensors")[tiny.EMBEDDING]
        tiny.edit_tensors(folder, add={tiny.EMBEDDING: table / table.std() * 4})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": epsilon}))
    convert(other, "onnxruntime-cpu", tmp_path / "port")
    found = verify(tmp_path / "port", loud, "semantics")
    ratios = {c["name"]: c["value"] for level in found.json()["levels"] for c in level["checks"]}
    assert found.code == 1
    assert ratios["faint: logits"] > 100 > ratios["prefill: logits"]
