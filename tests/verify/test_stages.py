"""A model in parts computes what the whole does; a slice finds what is in it, and says that it was one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from command import run
from surgery import weight_of

from porter.errors import ParityError
from porter.model import understand
from porter.port import convert
from porter.verify.original import Original
from porter.verify.stages import Stage, Stages, free_memory, parse_layers, plan_stages, whole

IDS = np.random.default_rng(4).integers(0, 97, (2, 9))
SMALL = "1GB"  # less than the libraries take: every layer by itself


def verdict(port: Path, checkpoint: Path, *options: object) -> tuple[int, dict[str, Any]]:
    found = run("verify", port, "--against", checkpoint, "--tokens", 4, "--json", *options)
    return found.code, found.json()


def test_the_original_in_parts_is_the_original(steady: str, checkpoint: Callable[[str], Path]) -> None:
    """To the last bits of float64: the output's words are taken a few at a time."""
    assert_the_same_in_parts(checkpoint(steady))


def test_multipliers_are_applied_once(tmp_path: Path) -> None:
    """Of an embedding before the first layer, and of logits behind the last."""
    assert_the_same_in_parts(tiny.write_checkpoint(tmp_path, tiny.sample("granite", num_hidden_layers=2)))


def assert_the_same_in_parts(folder: Path) -> None:
    """Two layers, each a stage, and a stage for each end."""
    parts = tuple(Stage(range(n, n + 1), embedding=False, head=False) for n in range(2))
    ends = Stage(range(0), embedding=True, head=False), Stage(range(2, 2), embedding=False, head=True)
    staged = Original(folder, "float64", stages=Stages((ends[0], *parts, ends[1]), resident=False))
    once = Original(folder, "float64")
    (a, past_a), (b, past_b) = staged.run(IDS), once.run(IDS)
    (c, _), (d, _) = staged.run(IDS[:, :1], past=past_a), once.run(IDS[:, :1], past=past_b)
    for mine, theirs in ((a, b), (c, d)):
        assert np.abs(mine.logits - theirs.logits).max() < 1e-12
        assert all(np.array_equal(mine.layers[n], theirs.layers[n]) for n in range(2))
        assert mine.routes.keys() == theirs.routes.keys()


@pytest.mark.parametrize("level", ["semantics", "dtype", "distribution"])
def test_a_port_that_does_not_fit_is_walked_through_in_parts(level: str, deepseek: Path, deepseek_port: Path) -> None:
    code, found = verdict(deepseek_port, deepseek, "--memory", SMALL, "--level", level)
    assert (code, found["passed"], found["slice"]) == (0, True, None)
    errors = {(e["quantity"], e["layer"]) for e in found["figures"]["errors"]}
    assert len(errors) == (0 if level == "distribution" else 3 + 3 + 2 + 1)  # two of three layers have routers
    assert "read in 5 parts" in " ".join(found["notes"])
    assert ("no drift" in " ".join(found["notes"])) == (level == "distribution")
    assert found["figures"]["positions"] == []


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("ascend-910b", {"dtype": "bfloat16"}),
        ("onnxruntime-cpu", {"quantize": "int8"}),
        ("sophgo-bm1684x", {"shape": "batch=1,sequence=8/16,context=64"}),
    ],
    ids=["bfloat16", "int8", "fixed sizes"],
)
def test_so_is_one_of_another_form(target: str, options: dict[str, Any], deepseek: Path, tmp_path: Path) -> None:
    convert(deepseek, target, tmp_path / "port", **options)
    code, found = verdict(tmp_path / "port", deepseek, "--memory", SMALL, "--level", "semantics")
    assert (code, found["passed"]) == (0, True), found


@pytest.mark.parametrize(("layers", "memory"), [("0-1", "60GB"), ("0-1", SMALL), ("2", "60GB"), ("2", SMALL)])
def test_a_slice_finds_what_is_in_it(
    layers: str, memory: str, deepseek: Path, deepseek_port: Path, tmp_path: Path
) -> None:
    port = Path(shutil.copytree(deepseek_port, tmp_path / "port"))
    with weight_of(port, "model.layers.2.post_attention_layernorm.weight") as weight:
        weight[3] += 0.01
    code, found = verdict(port, deepseek, "--layers", layers, "--memory", memory, "--level", "semantics")
    assert code == (1 if layers == "2" else 0)
    assert found["slice"] == ([2] if layers == "2" else [0, 1])
    assert "SLICE" in found["notes"][0]


def test_a_slice_is_decoded_token_by_token(deepseek: Path, deepseek_port: Path) -> None:
    """As whole models are, where it stays in memory."""
    code, found = verdict(deepseek_port, deepseek, "--layers", "0,2", "--memory", "60GB", "--level", "distribution")
    assert code == 0
    assert "no drift" not in " ".join(found["notes"])
    errors = [entry for entry in found["figures"]["errors"] if entry["scenario"] == "drift"]
    assert {entry["layer"] for entry in errors if entry["quantity"] == "cache"} == {0, 2}
    assert found["figures"]["positions"]


@pytest.mark.parametrize("text", ["", "a", "3", "2-1", "0,0", "1,0", "0-3", "-1"])
def test_no_slice(text: str) -> None:
    with pytest.raises(ParityError):
        parse_layers(text, 3)


def test_a_slice() -> None:
    assert parse_layers("0-3, 58-60,70", 71) == (range(4), range(58, 61), range(70, 71))


def test_a_plan_is_as_coarse_as_memory_allows(deepseek: Path) -> None:
    model = understand(deepseek)
    assert plan_stages(model, 2**40) == whole(3)
    assert [str(s) for s in plan_stages(model, 0).parts] == ["embedding", "layer 0", "layer 1", "layer 2", "head"]
    assert [str(s) for s in plan_stages(model, 2**40, [range(1, 3)]).parts] == ["embedding", "layers 1 to 2", "head"]
    assert 2**20 < free_memory() < 2**50
