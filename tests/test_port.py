"""A port is what DESIGN.md section 6 promises: the same bytes every time, and runnable without porter."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import takers
import tiny
import torch
from command import digests, run, spawn

from porter.checkpoint import open_checkpoint
from porter.port import convert
from porter.verify.original import Original

PROMPT, STEPS = 20, 6


# ------------------------------------------------------------------ the same bytes


@pytest.mark.parametrize("name", ["deepseek", "llama"])
@pytest.mark.parametrize("target", takers.DEVICES)
def test_the_same_bytes_wherever_and_whenever(
    name: str, target: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    checkpoint: Path = request.getfixturevalue(name)
    before = digests(checkpoint)
    moved = Path(shutil.copytree(checkpoint, tmp_path / "elsewhere" / "with another name"))
    here, there = tmp_path / "a", tmp_path / "deeper" / "down" / "b"
    convert(checkpoint, target, here)
    surroundings = {"PYTHONHASHSEED": "7", "TZ": "Asia/Shanghai", "LC_ALL": "C", "COLUMNS": "200"}
    done = spawn("convert", moved, "--target", target, "-o", there, environment=surroundings)
    assert done.code == 0, done.err
    assert digests(here) == digests(there)
    assert digests(checkpoint) == digests(moved) == before


def test_two_hash_seeds(deepseek: Path, tmp_path: Path) -> None:
    for seed, zone in (("1", "UTC"), ("2", "America/New_York")):
        command = ["convert", deepseek, "--target", "ascend-910b", "-o", tmp_path / seed]
        assert spawn(*command, environment={"PYTHONHASHSEED": seed, "TZ": zone}).code == 0
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


# ------------------------------------------------------------------ the manifest


def manifest(port: Path) -> dict[str, Any]:
    found = json.loads((port / "porter.json").read_text())
    assert isinstance(found, dict)
    return found


def test_the_manifest_says_what_the_port_is(deepseek: Path, deepseek_port: Path) -> None:
    found = manifest(deepseek_port)
    facts = {
        "schema_version": 1,
        "family": "deepseek_v3",
        "model_type": "deepseek_v3",
        "target": "onnxruntime-cpu",
        "frontend": "onnxruntime",
        "dtype": "float32",
        "attention": "absorbed",
        "minimum_past": 0,
        "layers": 3,
        "cache_width": 26,
    }
    assert {name: found[name] for name in facts} == facts
    (graph,) = found["graphs"]
    assert (graph["file"], graph["phase"]) == ("model.onnx", "prefill and decode")
    assert graph["inputs"][:3] == [
        {"name": name, "dtype": "int64", "shape": ["batch", length]}
        for name, length in (("input_ids", "sequence"), ("position_ids", "sequence"), ("attention_mask", "total"))
    ]
    assert graph["outputs"][0] == {"name": "logits", "dtype": "float32", "shape": ["batch", "sequence", 113]}


def test_the_manifest_lists_every_file_with_its_digest(deepseek: Path, deepseek_port: Path) -> None:
    found = manifest(deepseek_port)
    entries = [entry for part in ("graphs", "weights", "files") for entry in found[part]]
    assert {entry["file"] for entry in entries} | {"porter.json"} == {path.name for path in deepseek_port.iterdir()}
    for entry in entries:
        data = (deepseek_port / entry["file"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_the_manifest_has_the_digest_of_every_source_range(deepseek: Path, deepseek_port: Path) -> None:
    """Every row of every tensor that is used is in exactly one range."""
    checkpoint = open_checkpoint(deepseek)
    rows = {name: np.zeros(info.shape[0], int) for name, info in checkpoint.tensors.items()}
    found = manifest(deepseek_port)["source"]
    for file in found["files"]:
        assert file["bytes"] == (deepseek / file["file"]).stat().st_size
        for name, digest in file["ranges"].items():
            tensor, _, span = name.partition("[")
            start, stop = map(int, span.rstrip("]").split(":")) if span else (0, len(rows[tensor]))
            assert digest == hashlib.sha256(checkpoint.read(tensor, start, stop).tobytes()).hexdigest()
            rows[tensor][start:stop] += 1
    assert all((times == 1).all() for name, times in rows.items() if name not in found["dropped"])


def test_what_is_carried_along_is_unchanged(deepseek: Path, deepseek_port: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        assert (deepseek_port / name).read_bytes() == (deepseek / name).read_bytes()


def test_nothing_of_the_folder_or_the_day_is_in_a_port(deepseek: Path, deepseek_port: Path) -> None:
    for path in deepseek_port.iterdir():
        data = path.read_bytes()
        assert str(deepseek).encode() not in data
        assert str(deepseek_port).encode() not in data


def test_a_dropped_tensor_has_a_reason(llama: Path, tmp_path: Path) -> None:
    folder, name = Path(shutil.copytree(llama, tmp_path / "checkpoint")), "model.layers.0.self_attn.rotary_emb.inv_freq"
    tiny.edit_tensors(folder, add={name: torch.ones(6)})
    convert(folder, "onnxruntime-cpu", tmp_path / "port")
    assert manifest(tmp_path / "port")["source"]["dropped"] == {name: "recomputed from config.json"}


# ------------------------------------------------------------------ replacing


def test_force_replaces_a_port_and_leaves_nothing_beside_it(llama: Path, tmp_path: Path) -> None:
    port = tmp_path / "port"
    convert(llama, "onnxruntime-cpu", port, dtype="float16")
    (port / "notes.txt").write_text("of the old one")
    convert(llama, "onnxruntime-cpu", port, force=True)
    assert manifest(port)["dtype"] == "float32"
    assert [path.name for path in tmp_path.iterdir()] == ["port"]
    assert not (port / "notes.txt").exists()


def test_force_makes_one_where_there_is_none(llama: Path, llama_port: Path, tmp_path: Path) -> None:
    convert(llama, "onnxruntime-cpu", tmp_path / "port", force=True)
    assert digests(tmp_path / "port") == digests(llama_port)


def test_a_replacement_that_fails_leaves_the_old_port(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(llama, "onnxruntime-cpu", tmp_path / "port")
    before, rename = digests(tmp_path / "port"), Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "port" and ".port.unfinished" in self.parts:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    arguments = ["convert", llama, "--target", "onnxruntime-cpu", "-o", tmp_path / "port", "--force", "--json"]
    assert "No space left" in run(*arguments).refusal()
    assert digests(tmp_path / "port") == before
    monkeypatch.undo()
    assert run(*arguments).code == 0, "the same command goes on"
    assert [path.name for path in tmp_path.iterdir()] == ["port"]


# ------------------------------------------------------------------ run without porter


def test_onnx_itself_finds_nothing_wrong(deepseek_port: Path, llama_port: Path) -> None:
    for port in (deepseek_port, llama_port):
        onnx.checker.check_model(port / "model.onnx", full_check=True)
        model = onnx.load(port / "model.onnx", load_external_data=False)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
        assert len({node.name for node in model.graph.node}) == len(model.graph.node)


def test_the_cache_of_latent_attention_is_the_latent(deepseek_port: Path) -> None:
    """kv_lora_rank + qk_rope_head_dim numbers per token and layer, and no heads."""
    session = onnxruntime.InferenceSession(deepseek_port / "model.onnx", providers=["CPUExecutionProvider"])
    past = {i.name: i.shape for i in session.get_inputs() if i.name.startswith("past")}
    present = {o.name: o.shape for o in session.get_outputs() if o.name.startswith("present")}
    assert past == {f"past_key_values.{n}.latent": ["batch", 1, "past", 18 + 8] for n in range(3)}
    assert present == {f"present.{n}.latent": ["batch", 1, "total", 18 + 8] for n in range(3)}


def follow(port: Path, tokens: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The prompt in one call, then token by token: logits [tokens, vocabulary] and the last cache."""
    runner, places = tiny.Runner(port), manifest(port)["minimum_past"]
    cache, logits, start = runner.empty(1, places), [], 0
    for end in (PROMPT, *range(PROMPT + 1, len(tokens) + 1)):
        positions, mask = np.arange(start, end)[None], np.array([[0] * places + [1] * end])
        result, cache = runner.run(tokens[None, start:end], positions, mask, cache)
        logits.append(result[0])
        start = end
    return np.concatenate(logits), cache


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return math.sqrt(np.mean((a.astype(np.float64) - b) ** 2))


@pytest.mark.parametrize("target", takers.DEVICES)
def test_prompt_and_greedy_tokens_through_the_cache(target: str, deepseek: Path, tmp_path: Path) -> None:
    """What anyone with ONNX Runtime alone would do, by what the folder promises."""
    convert(deepseek, target, tmp_path / "port", dtype="float32")
    exact, own = Original(deepseek, "float64"), Original(deepseek, "float32")
    prompt = np.random.default_rng(3).integers(0, 113, (1, PROMPT))
    greedy, _ = exact.greedy(prompt, STEPS)
    tokens = np.concatenate([prompt[0], greedy])
    reference, rounded = exact.run(tokens[None])[0].logits[0], own.run(tokens[None])[0].logits[0]
    logits, cache = follow(tmp_path / "port", tokens)
    assert rmse(logits, reference) <= 10 * rmse(rounded, reference)
    assert (logits.argmax(-1) == reference.argmax(-1)).all()
    places = manifest(tmp_path / "port")["minimum_past"]
    assert {entry.shape for entry in cache.values()} == {(1, 1, places + len(tokens), 26)}


def test_a_float16_port_runs_as_it_is(deepseek: Path, deepseek_port: Path, tmp_path: Path) -> None:
    convert(deepseek, "onnxruntime-cpu", tmp_path / "port", dtype="float16")
    tokens = np.random.default_rng(4).integers(0, 113, PROMPT + STEPS)
    (narrow, cache), (wide, _) = follow(tmp_path / "port", tokens), follow(deepseek_port, tokens)
    assert narrow.dtype == next(iter(cache.values())).dtype == np.float16
    assert rmse(narrow, wide) < 0.1 * wide.std()


def test_compile_sh_is_there_where_the_vendor_has_a_compiler(deepseek: Path, tmp_path: Path) -> None:
    convert(deepseek, "ascend-910b", tmp_path / "port")
    script = tmp_path / "port" / "compile.sh"
    assert os.access(script, os.X_OK)
    assert "model.onnx" in script.read_text()
    assert "{" not in script.read_text().replace("${", "")
