"""What differs and is right passes at every level: other forms of a graph, other sizes, other ways of running it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import tiny
from command import run

from porter.families import families
from porter.port import convert
from porter.verify import prompts, session

Patch = pytest.MonkeyPatch
SEEDS = 100
FALSE_ALARMS = 1  # that so many seeds may give
OWN = "".join(f'{{"ids": {[(7 * row + 3 * place) % 97 for place in range(12)]}}}\n' for row in range(16))


def plainly(patch: Patch, *, threads: int = 1, optimised: bool = True) -> None:
    """ONNX Runtime otherwise than porter runs it."""
    made = onnxruntime.SessionOptions

    def options() -> onnxruntime.SessionOptions:
        its = made()
        its.intra_op_num_threads = threads
        levels = onnxruntime.GraphOptimizationLevel
        its.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
        return its

    patch.setattr(session.ort, "SessionOptions", options)


FORMS: dict[str, dict[str, Any]] = {
    "latent attention expanded": {"attention": "expanded"},
    "latent attention absorbed": {"attention": "absorbed"},
    "fixed sizes": {"shape": "batch=2,sequence=8,context=64"},
    "gears": {"shape": "batch=1,sequence=4/8,context=64"},
    "weights by reference": {"weights": "reference", "target_name": "ascend-910b", "dtype": "bfloat16"},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
    "vendor operators of CANN": {"target_name": "ascend-910b"},
    "CANN in bfloat16": {"target_name": "ascend-910b", "dtype": "bfloat16"},
    "CANN in float16": {"target_name": "ascend-310p3", "dtype": "float16"},
    "no Loop in the graph": {"target_name": "sophgo-bm1684x", "shape": "batch=1,sequence=8,context=64"},
    "MIGraphX": {"target_name": "hygon-bw1000"},
}
WAYS: dict[str, Callable[[Patch], None]] = {
    "graph not optimised": partial(plainly, optimised=False),
    "two threads": partial(plainly, threads=2),
    "three prompts at once": lambda patch: patch.setattr(prompts, "BATCH", 3),
}
ASKED: dict[str, list[object]] = {
    "part by part": ["--memory", "1GB"],
    "more tokens": ["--tokens", 24],
    "a slice": ["--layers", "1-2"],
}


def verdict(port: Path, checkpoint: Path, *options: object) -> dict[str, Any]:
    found = run("verify", port, "--against", checkpoint, "--json", *options)
    assert found.code in (0, 1, 3), found
    return found.json()


def failures(found: dict[str, Any]) -> list[str]:
    return [check["name"] for level in found["levels"] for check in level["checks"] if check["status"] == "fail"]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_another_form(form: str, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(tiny.SAMPLES / "deepseek-v3-tiny", tmp_path / "checkpoint"))
    port = checkpoint if "weights" in FORMS[form] else tmp_path / "port"
    convert(checkpoint, output=port, **{"target_name": "onnxruntime-cpu"} | FORMS[form])
    assert failures(verdict(port, checkpoint)) == []


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_another_way(way: str, deepseek: Path, deepseek_port: Path, monkeypatch: Patch) -> None:
    WAYS[way](monkeypatch)
    assert failures(verdict(deepseek_port, deepseek)) == []


@pytest.mark.slow
@pytest.mark.parametrize("asked", ASKED)
def test_asked_otherwise(asked: str, deepseek: Path, deepseek_port: Path) -> None:
    assert failures(verdict(deepseek_port, deepseek, *ASKED[asked])) == []


@pytest.mark.slow
def test_prompts_of_one_s_own(deepseek: Path, deepseek_port: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(OWN)
    assert failures(verdict(deepseek_port, deepseek, "--prompts", tmp_path / "own.jsonl")) == []


@pytest.mark.slow
def test_false_alarms_are_rare(tmp_path: Path) -> None:
    """Random models, family by family in turn, in a narrow dtype."""
    alarms, names = {}, list(families())
    for seed in range(SEEDS):
        family, folder = names[seed % len(names)], tmp_path / str(seed)
        tiny.write_checkpoint(folder / "checkpoint", tiny.sample(family), seed=seed)
        dtype = ("bfloat16", "float16")[seed // len(names) % 2]
        convert(folder / "checkpoint", "moore-threads-s4000", folder / "port", dtype=dtype)
        if found := failures(verdict(folder / "port", folder / "checkpoint", "--level", "dtype")):
            alarms[family, dtype, seed] = found
        shutil.rmtree(folder)
    assert len(alarms) <= FALSE_ALARMS, alarms
