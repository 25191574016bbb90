"""Models larger than the machine: what a conversion holds does not grow with what it converts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from checkpoints import Tensor, deepseek_v3, make, nbytes, write_checkpoint
from command import ROOT

SPARE_BYTES = 400_000_000
HIDDEN, INNER, EXPERTS = 2048, 1024, 64


def converted(checkpoint: Path, output: Path, *more: str, code: int = 0) -> dict[str, Any]:
    """What `porter convert` says. Not by `command.spawn`, which takes the digests of the checkpoint: too large here."""
    arguments = ["convert", checkpoint, "-o", output, "--target", "ascend-910b", "--dtype", "bfloat16", "--json", *more]
    done = subprocess.run([sys.executable, "-m", "porter", *arguments], capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == code, done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


# ------------------------------------------------------------------ DeepSeek-V3 in full


def test_a_dry_run_of_deepseek_v3_is_small(tmp_path: Path) -> None:
    """163 shards, 689 GB, 671 billion parameters; the port fits on no disk here, hence exit code 2."""
    size = make("deepseek-v3", tmp_path / "checkpoint", sparse=True)
    assert 688e9 < size < 689e9
    assert len(list((tmp_path / "checkpoint").glob("*.safetensors"))) == 163
    foreseen = converted(tmp_path / "checkpoint", tmp_path / "port", "--dry-run", code=2)
    assert 671e9 < sum(file["bytes"] for file in foreseen["weights"]) / 2 < 672e9
    assert not foreseen["fits"]
    assert foreseen["peak_rss_bytes"] < 1_500_000_000
    assert foreseen["peak_rss_bytes"] <= foreseen["peak_memory_bytes"] < 1_500_000_000
    assert not (tmp_path / "port").exists()


def test_every_layer_of_deepseek_v3_has_its_tensors() -> None:
    """Counted by hand: matrices have a scale each; latent attention five matrices and two norms, a layer two norms."""
    names = [name for name, _, _ in deepseek_v3()[1]]
    layers, dense, experts = 61 + 1, 3, 256 + 1
    matrices = layers * 5 + dense * 3 + (layers - dense) * experts * 3
    routers, ends, prediction = (layers - dense) * 2, 3, 6
    assert len(set(names)) == len(names) == 2 * matrices + layers * 4 + routers + ends + prediction
    assert sum(name.endswith("_scale_inv") for name in names) == matrices


# ------------------------------------------------------------------ a weight larger than what is allowed


def experts(stacked: bool) -> list[Tensor]:
    """One layer: its experts together are 805 MB, one tensor each or in two."""
    name, layer = "model.layers.0.mlp.experts", "model.layers.0"
    tensors: list[Tensor] = [(f"{layer}.mlp.gate.weight", "BF16", (EXPERTS, HIDDEN))]
    if stacked:
        tensors += [(f"{name}.gate_up_proj", "BF16", (EXPERTS, 2 * INNER, HIDDEN))]
        tensors += [(f"{name}.down_proj", "BF16", (EXPERTS, HIDDEN, INNER))]
    else:
        for e in range(EXPERTS):
            tensors += [(f"{name}.{e}.{p}_proj.weight", "BF16", (INNER, HIDDEN)) for p in ("gate", "up")]
            tensors += [(f"{name}.{e}.down_proj.weight", "BF16", (HIDDEN, INNER))]
    heads = {"q_proj": (512, HIDDEN), "k_proj": (128, HIDDEN), "v_proj": (128, HIDDEN), "o_proj": (HIDDEN, 512)}
    tensors += [(f"{layer}.self_attn.{p}.weight", "BF16", shape) for p, shape in heads.items()]
    tensors += [(f"{layer}.self_attn.{p}_norm.weight", "BF16", (64,)) for p in "qk"]
    tensors += [(f"{layer}.{p}_layernorm.weight", "BF16", (HIDDEN,)) for p in ("input", "post_attention")]
    ends = {"model.embed_tokens": (1000, HIDDEN), "model.norm": (HIDDEN,), "lm_head": (1000, HIDDEN)}
    return tensors + [(f"{name}.weight", "BF16", shape) for name, shape in ends.items()]


@pytest.fixture(params=["stacked", "one by one"])
def large(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A layer of experts, sparse."""
    sizes = {"hidden_size": HIDDEN, "moe_intermediate_size": INNER, "num_experts": EXPERTS, "vocab_size": 1000}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64}
    config = tiny.sample("qwen3_moe", **sizes, **heads, num_experts_per_tok=8, mlp_only_layers=[], dtype="bfloat16")
    write_checkpoint(tmp_path / "large", config, iter(experts(request.param == "stacked")), None)
    return tmp_path / "large"


def test_stacked_experts_are_never_held(large: Path, tmp_path: Path) -> None:
    """Not even where they are one tensor on the disk, which alone is larger than the peak."""
    result = converted(large, tmp_path / "port")
    assert nbytes(experts(stacked=True)[1]) > 500_000_000
    assert sum(file["bytes"] for file in result["weights"]) > 800_000_000
    assert result["peak_rss_bytes"] < SPARE_BYTES


@pytest.mark.parametrize("more", [[], ["--jobs", "1"], ["--jobs", "64", "--shard-size", "60MB"]])
def test_the_peak_is_foreseen(large: Path, tmp_path: Path, more: list[str]) -> None:
    """However many files are written side by side."""
    foreseen = converted(large, tmp_path / "port", *more, "--dry-run")
    found = converted(large, tmp_path / "port", *more)
    assert found["peak_rss_bytes"] <= foreseen["peak_memory_bytes"] < SPARE_BYTES


# ------------------------------------------------------------------ whose memory it is

# Holds 600 MB, and runs the command that it is given.
LARGE_PARENT = """
import subprocess, sys
held = bytearray(b"x") * 600_000_000
sys.exit(subprocess.run(sys.argv[1:], check=False).returncode)
"""


def test_the_peak_is_not_that_of_the_parent(llama: Path, tmp_path: Path) -> None:
    """Linux hands the highest figure of `getrusage` on to a child, so that a test runner's would be told."""
    convert = [sys.executable, "-m", "porter", "convert", llama, "--target", "onnxruntime-cpu", "--json"]
    command = [sys.executable, "-c", LARGE_PARENT, *convert, "-o", tmp_path / "port"]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, check=True)
    assert json.loads(done.stdout)["peak_rss_bytes"] < SPARE_BYTES
