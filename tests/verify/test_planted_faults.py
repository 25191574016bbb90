"""Mistakes of the kind that ports are made with, each planted in a copy of a sound port, must all be found.

The manifest is signed again after each, so that no digest gives it away: only the comparison can.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny
from command import Outcome, run
from onnx import GraphProto
from surgery import constants, graph_of, rewire, set_value, value_of, weight_of

from porter.port import convert

EMBEDDING = "model.embed_tokens.weight"
EXPERTS = "model.layers.1.mlp.experts."
BIAS = "model.layers.2.mlp.gate.e_score_correction_bias"
COS, SIN = "model.rotary_emb.cos", "model.rotary_emb.sin"
CHOICE, ROUTE = "mlp.gate.Route.TopK_2.0", "mlp.gate.Route."
CLEAR = 1000.0  # times the original's own error: the limit is 10, and a mistake is no near miss


@dataclass(frozen=True)
class Fault:
    """A mistake: how it is planted, and which weight the bytes accuse."""

    plant: Callable[[Path], None]
    weight: str | None = None


def swap_two_experts(port: Path) -> None:
    for part in ("gate_up_proj", "down_proj"):
        with weight_of(port, EXPERTS + part) as weight:
            weight[[2, 7]] = weight[[7, 2]]


def zero_the_correction_bias(port: Path) -> None:
    with weight_of(port, BIAS) as weight:
        weight[:] = 0


def raise_rope_frequencies(port: Path) -> None:
    """By 0.1 %: each table is computed anew from the angle of its second row."""
    with weight_of(port, COS) as cos, weight_of(port, SIN) as sin:
        angles = np.arange(len(cos))[:, None] * np.arctan2(sin[1], cos[1]).astype(np.float64) * 1.001
        cos[:], sin[:] = np.cos(angles), np.sin(angles)


def in_graph(edit: Callable[[GraphProto], object]) -> Callable[[Path], None]:
    def plant(port: Path) -> None:
        with graph_of(port) as graph:
            edit(graph)

    return plant


def drop_the_correction_bias(graph: GraphProto) -> None:
    rewire(graph, ROUTE + "Reshape", ROUTE + "Add", ROUTE + "Sigmoid")


def ignore_the_group_limit(graph: GraphProto) -> None:
    rewire(graph, CHOICE, ROUTE + "Reshape_1", ROUTE + "Add")


def scale_routed_experts_by_two_percent_less(graph: GraphProto) -> None:
    (scale,) = constants(graph, "const.float.scalar.2.5")
    set_value(scale, value_of(scale) * 0.98)


def forget_mscale(graph: GraphProto) -> None:
    (scale,) = constants(graph, "const.float.scalar.0.3995")
    set_value(scale, np.array((14 + 8) ** -0.5))


def take_another_epsilon(graph: GraphProto) -> None:
    (epsilon,) = constants(graph, "const.float.scalar.1e-06")
    set_value(epsilon, np.array(1e-5))


FAULTS = {
    "two-experts-swapped": Fault(swap_two_experts, EXPERTS + "gate_up_proj"),
    "correction-bias-zero": Fault(zero_the_correction_bias, BIAS),
    "correction-bias-dropped": Fault(in_graph(drop_the_correction_bias)),
    "routed-scaling-98-percent": Fault(in_graph(scale_routed_experts_by_two_percent_less)),
    "yarn-without-mscale": Fault(in_graph(forget_mscale)),
    "rope-frequency-0.1-percent": Fault(raise_rope_frequencies, COS),
    "rms-epsilon-1e-5": Fault(in_graph(take_another_epsilon)),
    "group-limit-ignored": Fault(in_graph(ignore_the_group_limit)),
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
        table = tiny.load_file(folder / "model.safetensors")[EMBEDDING]
        tiny.edit_tensors(folder, add={EMBEDDING: table / table.std() * 4})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": epsilon}))
    convert(other, "onnxruntime-cpu", tmp_path / "port")
    found = verify(tmp_path / "port", loud, "semantics")
    ratios = {c["name"]: c["value"] for level in found.json()["levels"] for c in level["checks"]}
    assert found.code == 1
    assert ratios["faint: logits"] > 100 > ratios["prefill: logits"]
