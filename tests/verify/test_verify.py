"""The story whole: sound ports pass on every target and in every dtype, and nothing is touched."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import takers
import tiny
import torch
from command import digests, run
from surgery import weight_of

from porter.port import convert

CONTRACT = {"schema_version", "passed", "levels", "greedy_match", "max_abs_error", "cosine", "kl", "seconds", "prompts"}
EVERY = ["weights", "semantics", "dtype", "distribution"]
LEVELS = {**{level: [level] for level in EVERY}, "all": EVERY}


def verify(port: Path, checkpoint: Path, level: str = "all") -> dict[str, Any]:
    """The report of a port that passes."""
    found = run("verify", port, "--against", checkpoint, "--level", level, "--tokens", 4, "--json")
    report = found.json()
    failed = [c for level in report["levels"] for c in level["checks"] if c["status"] not in ("pass", "measured")]
    assert (found.code, report["passed"], failed) == (0, True, [])
    assert {*report} >= CONTRACT
    return report


@pytest.mark.parametrize("target", takers.DEVICES)
@pytest.mark.parametrize("name", ["deepseek", "llama"])
def test_a_sound_port_passes(name: str, target: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    checkpoint: Path = request.getfixturevalue(name)
    convert(checkpoint, target, tmp_path / "port")
    before = digests(checkpoint), digests(tmp_path / "port")
    report = verify(tmp_path / "port", checkpoint)
    assert (digests(checkpoint), digests(tmp_path / "port")) == before
    assert report["target"] == target
    assert report["greedy_match"] is True
    assert report["max_abs_error"] < 1e-3
    assert report["cosine"] > 1 - 1e-9
    assert 0 <= report["kl"] < 1e-6
    names = {check["name"] for level in report["levels"] for check in level["checks"]}
    expected = {"prefill: logits", "decode: cache", "chunked: layers", "padded: logits", "RoPE at 256: logits"}
    assert names >= expected
    assert ("padded: router" in names) == ("padded: routes changed" in names) == (name == "deepseek")


@pytest.mark.parametrize("form", ["absorbed", "expanded"])
def test_both_forms_of_latent_attention_pass(form: str, deepseek: Path, tmp_path: Path) -> None:
    convert(deepseek, "onnxruntime-cpu", tmp_path / "port", attention=form)
    verify(tmp_path / "port", deepseek)


@pytest.mark.parametrize(
    ("target", "dtype"),
    [("onnxruntime-cpu", "float32"), ("onnxruntime-cpu", "float16"), ("ascend-910b", "bfloat16")],
)
def test_a_bfloat16_checkpoint_passes_in_every_dtype(target: str, dtype: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    tiny.write_checkpoint(checkpoint, tiny.sample("deepseek_v3", num_hidden_layers=2), dtype=torch.bfloat16)
    convert(checkpoint, target, tmp_path / "port", dtype=dtype)
    report = verify(tmp_path / "port", checkpoint)
    assert report["dtype"] == dtype
    assert any("widened" in note for note in report["notes"]) == (dtype != "float32")


@pytest.mark.parametrize("level", LEVELS)
def test_only_the_levels_asked_for_are_run(level: str, llama: Path, llama_port: Path) -> None:
    report = verify(llama_port, llama, level)
    assert [found["name"] for found in report["levels"]] == LEVELS[level]
    assert (report["greedy_match"] is None) == (level not in ("semantics", "all"))


def test_weights_of_a_narrow_port_are_the_business_of_their_own_level(llama: Path, tmp_path: Path) -> None:
    """Semantics takes a narrow port's weights from the source, so both levels together make the proof."""
    convert(llama, "onnxruntime-cpu", tmp_path / "port", dtype="float16")
    with weight_of(tmp_path / "port", "lm_head.weight") as weight:
        weight[[3, 4]] = weight[[4, 3]]
    verify(tmp_path / "port", llama, "semantics")
    found = run("verify", tmp_path / "port", "--against", llama, "--json")
    assert found.code == 1
    failed = {check["name"]: check["detail"] for check in found.json()["levels"][0]["checks"] if check["value"]}
    assert failed["weights unlike their source"] == "lm_head.weight"


def test_a_port_and_its_checkpoint_may_move(llama: Path, llama_port: Path, tmp_path: Path) -> None:
    verify(Path(shutil.move(shutil.copytree(llama_port, tmp_path / "a"), tmp_path / "b")), llama)
    verify(llama_port, Path(shutil.copytree(llama, tmp_path / "c")), "semantics")


def test_a_window_that_is_one_too_short_is_found_however_long_it_is(tmp_path: Path) -> None:
    sound, other = tmp_path / "sound", tmp_path / "other"
    tiny.write_checkpoint(sound, tiny.sample("mistral", sliding_window=900, num_hidden_layers=1))
    shutil.copytree(sound, other)
    (other / "config.json").write_text(json.dumps(tiny.sample("mistral", sliding_window=899, num_hidden_layers=1)))
    for checkpoint in (sound, other):
        convert(checkpoint, "onnxruntime-cpu", tmp_path / f"{checkpoint.name}-port")
    verify(tmp_path / "sound-port", sound, "semantics")
    command = ["verify", tmp_path / "other-port", "--against", sound, "--json"]
    report = run(*command).json()
    wrong = {c["name"] for level in report["levels"] for c in level["checks"] if c["status"] == "fail"}
    assert wrong == {"window of 900: logits", "window of 900: layers"}


def test_without_a_runtime_the_weights_can_still_be_verified(
    llama: Path, llama_port: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    command = ["verify", llama_port, "--against", llama, "--json"]
    refusal = run(*command).refusal()
    assert "needs torch" in refusal
    assert "--level weights" in refusal
    assert run(*command, "--level", "weights").code == 0


def test_the_verdict_in_words(llama: Path, llama_port: Path, tmp_path: Path) -> None:
    found = run("verify", llama_port, "--against", llama)
    assert found.code == 0
    assert "parity holds" in found.out
    assert "greedy tokens equal" in found.out
    copy = Path(shutil.copytree(llama_port, tmp_path / "port"))
    with weight_of(copy, "model.norm.weight") as weight:
        weight[0] *= 1.5
    found = run("verify", copy, "--against", llama)
    assert found.code == 1
    assert "parity FAILS" in found.out
    assert "model.norm.weight" in found.out
