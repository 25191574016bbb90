"""What inspect tells is counted here once more, from the files themselves."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import tiny
import torch
from command import run
from surgery import flip

from porter.port import convert

CONTRACT = {"family", "model_type", "parameters", "active_parameters", "layers", "cache_bytes_per_token_per_layer"}
BIAS = "e_score_correction_bias"  # adjusted by a rule, not trained: no parameter


def inspect(path: Path) -> dict[str, Any]:
    document = run("inspect", path, "--json").json()
    assert document["schema_version"] == 1
    assert {*document} >= CONTRACT | {"kind", "path"}
    return document


def stored(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(tiny.load_file(checkpoint / "model.safetensors"))


def sizes(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, int]]:
    return ((name, tensor.numel()) for name, tensor in tensors.items() if BIAS not in name)


def test_a_mixture_of_experts(deepseek: Path) -> None:
    found, tensors = inspect(deepseek), stored(deepseek)
    routed = sum(n for name, n in sizes(tensors) if ".mlp.experts." in name)
    total = sum(n for _, n in sizes(tensors))
    assert (found["kind"], found["family"], found["model_type"]) == ("checkpoint", "deepseek_v3", "deepseek_v3")
    assert found["parameters"] == total
    assert found["active_parameters"] == total - routed * (12 - 4) // 12
    assert (found["layers"], found["max_positions"], found["dropped"]) == (3, 256, 0)
    assert found["bytes"] == sum(t.numel() * t.element_size() for t in tensors.values())
    assert found["cache"] == {"latent": {"heads": 1, "width": 18 + 8}}
    assert found["cache_bytes_per_token_per_layer"] == 4 * (18 + 8)
    assert found["attention_forms"] == ["absorbed", "expanded"]


def test_a_dense_model(llama: Path) -> None:
    found = inspect(llama)
    assert found["parameters"] == found["active_parameters"] == sum(n for _, n in sizes(stored(llama)))
    assert found["cache"] == {"key": {"heads": 2, "width": 12}, "value": {"heads": 2, "width": 12}}
    assert found["cache_bytes_per_token_per_layer"] == 4 * 2 * (2 * 12)
    assert found["attention_forms"] == []


def test_a_narrow_checkpoint_with_tied_embeddings(tmp_path: Path) -> None:
    config = tiny.sample("qwen2", tie_word_embeddings=True)
    tiny.write_checkpoint(tmp_path, config, dtype=torch.bfloat16)
    found = inspect(tmp_path)
    assert "lm_head.weight" not in stored(tmp_path)
    assert found["parameters"] == sum(n for _, n in sizes(stored(tmp_path)))
    assert found["bytes_by_dtype"] == {"BF16": 2 * found["parameters"]}
    heads, width = config["num_key_value_heads"], config["hidden_size"] // config["num_attention_heads"]
    assert found["cache_bytes_per_token_per_layer"] == 2 * 2 * heads * width


def test_tensors_that_are_left_out_are_counted(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "checkpoint"))
    tiny.edit_tensors(folder, add={"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)})
    assert inspect(folder)["dropped"] == 1
    assert inspect(folder)["parameters"] == inspect(llama)["parameters"]


def operators(nodes: Any) -> Iterator[str]:
    for node in nodes:
        yield f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for attribute in node.attribute:
            yield from operators(attribute.g.node)


@pytest.mark.parametrize(
    ("target", "dtype", "bytes_each"), [("onnxruntime-cpu", "auto", 4), ("ascend-910b", "bfloat16", 2)]
)
def test_a_port(target: str, dtype: str, bytes_each: int, deepseek: Path, tmp_path: Path) -> None:
    convert(deepseek, target, tmp_path / "port", dtype=dtype)
    found, source = inspect(tmp_path / "port"), inspect(deepseek)
    counted = Counter(operators(onnx.load(tmp_path / "port/model.onnx", load_external_data=False).graph.node))
    assert found["operators"] == counted
    assert list(found["operators"].values()) == sorted(counted.values(), reverse=True)
    assert found["nodes"] == counted.total()
    assert math.isclose(found["nodes_per_layer"], counted.total() / 3, abs_tol=0.06)
    same = ("family", "model_type", "parameters", "active_parameters", "layers")
    assert [found[name] for name in same] == [source[name] for name in same]
    assert (found["kind"], found["target"]) == ("port", target)
    assert found["bytes"] == (tmp_path / "port/weights-00001-of-00001.safetensors").stat().st_size
    assert found["cache_bytes_per_token_per_layer"] == bytes_each * (18 + 8)


def test_in_words(deepseek: Path, deepseek_port: Path) -> None:
    for path in (deepseek, deepseek_port):
        words = run("inspect", path).out
        assert f"{inspect(path)['parameters']:,}" in words
        assert "104 bytes per token and layer" in words


def test_what_is_neither_is_refused(llama: Path, tmp_path: Path) -> None:
    assert "cannot be opened" in run("inspect", tmp_path / "nothing", "--json").refusal()
    assert "config.json is missing" in run("inspect", tmp_path, "--json").refusal()
    folder = Path(shutil.copytree(llama, tmp_path / "checkpoint"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 102}))
    assert "embed_tokens" in run("inspect", folder, "--json").refusal()


def test_a_port_whose_graph_was_changed_is_refused(llama_port: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(llama_port, tmp_path / "port"))
    flip(copy / "model.onnx", 1000)
    assert "model.onnx' was changed" in run("inspect", copy, "--json").refusal()


def test_a_port_from_before_there_were_fixed_sizes(llama_port: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(llama_port, tmp_path / "port"))
    manifest = json.loads((copy / "porter.json").read_text())
    del manifest["shape"]
    (copy / "porter.json").write_text(json.dumps(manifest))
    assert {**inspect(copy), "path": ""} == {**inspect(llama_port), "path": ""}
