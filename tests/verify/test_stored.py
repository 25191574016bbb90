"""The original gets exactly the tensors of its checkpoint, or none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inside import inside
from safetensors.torch import load_file, save_file

from porter.errors import ParityError
from porter.verify.dequantise import dequantise
from porter.verify.original import Original

IDS = np.arange(9)[None]
Edit = Callable[[dict[str, torch.Tensor]], object]
Change = Callable[..., Path]


@pytest.fixture
def changed(checkpoint: Callable[[str], Path], tmp_path: Path) -> Change:
    """Copy a checkpoint, with other tensors and other fields in its config."""

    def change(name: str, edit: Edit = lambda tensors: None, **config: Any) -> Path:
        folder = shutil.copytree(checkpoint(name), tmp_path / name)
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors")
        fields = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(fields))
        return folder

    return change


def logits(folder: Path) -> np.ndarray:
    return Original(folder, "float64").run(IDS)[0].logits


def drop(*keys: str) -> Edit:
    return lambda tensors: [tensors.pop(key) for key in keys]


def put(key: str, tensor: torch.Tensor) -> Edit:
    return lambda tensors: tensors.update({key: tensor})


EXPERT = "model.layers.1.mlp.experts"


def renumber_the_last_expert(tensors: dict[str, torch.Tensor]) -> None:
    for kind in ("gate_proj", "up_proj", "down_proj"):
        tensors[f"{EXPERT}.8.{kind}.weight"] = tensors.pop(f"{EXPERT}.6.{kind}.weight")


@pytest.mark.parametrize(
    ("name", "edit", "says"),
    [
        ("llama", drop("model.norm.weight"), "model.norm.weight is missing"),
        ("llama", drop("model.embed_tokens.weight"), "model.embed_tokens.weight is missing"),
        ("qwen3", drop("lm_head.weight"), "lm_head.weight is missing"),
        (
            "deepseek_v3",
            drop("model.layers.1.mlp.gate.e_score_correction_bias"),
            "correction_bias is missing",
        ),
        (
            "llama",
            put("model.layers.0.self_attn.q_proj.bias", torch.ones(32)),
            "q_proj.bias is not in the model",
        ),
        ("llama", put("model.norm.weight", torch.ones(33)), r"model.norm.weight is \(33,\), not \(32,\)"),
        (
            "llama",
            put("model.layers.2.mlp.up_proj.weight", torch.ones(2, 2)),
            "2 layers.* model.layers.2.mlp.up_proj",
        ),
        (
            "llama",
            put("model.norm.weight", torch.ones(32, dtype=torch.int8)),
            r"model.norm.weight \(torch.int8\)",
        ),
        ("deepseek_v3", drop(f"{EXPERT}.3.up_proj.weight"), rf"missing experts: {EXPERT}.3.up_proj.weight"),
        ("deepseek_v3", drop(f"{EXPERT}.7.up_proj.weight"), rf"missing experts: {EXPERT}.7.up_proj.weight"),
        ("deepseek_v3", renumber_the_last_expert, rf"missing experts: {EXPERT}.6.down_proj.weight"),
        (
            "deepseek_v3",
            put(f"{EXPERT}.2.up_proj.weight", torch.ones(3, 3)),
            rf"{EXPERT}.2.up_proj.weight \(3, 3\)",
        ),
        (
            "deepseek_v3",
            drop(*(f"{EXPERT}.7.{kind}_proj.weight" for kind in ("gate", "up", "down"))),
            rf"{EXPERT}.gate_up_proj is \(7, 48, 32\), not \(8, 48, 32\)",
        ),
    ],
)
def test_other_tensors_than_those_of_the_model_are_refused(name: str, edit: Edit, says: str, changed: Change) -> None:
    with pytest.raises(ParityError, match=says):
        Original(changed(name, edit), "float32")


def test_prediction_layers_and_rotary_frequencies_are_left_out(
    changed: Change, checkpoint: Callable[[str], Path]
) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.2.eh_proj.weight"] = torch.ones(3, 3)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)

    folder = changed("deepseek_v3", edit, num_nextn_predict_layers=1)
    assert np.array_equal(logits(folder), logits(checkpoint("deepseek_v3")))


def test_a_tied_head_may_be_stored_too(changed: Change, checkpoint: Callable[[str], Path]) -> None:
    folder = changed("llama", lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert np.array_equal(logits(folder), logits(checkpoint("llama")))


def test_fused_experts_are_read_as_well_as_single_ones(changed: Change, checkpoint: Callable[[str], Path]) -> None:
    def fuse(tensors: dict[str, torch.Tensor]) -> None:
        for layer in range(2):
            stack = f"model.layers.{layer}.mlp.experts"
            gate, up, down = (
                torch.stack([tensors.pop(f"{stack}.{n}.{kind}_proj.weight") for n in range(8)])
                for kind in ("gate", "up", "down")
            )
            tensors |= {f"{stack}.gate_up_proj": torch.cat([gate, up], dim=1), f"{stack}.down_proj": down}

    assert np.array_equal(logits(changed("qwen3_moe", fuse)), logits(checkpoint("qwen3_moe")))


def test_a_float32_correction_bias_is_not_rounded(changed: Change) -> None:
    bias = torch.linspace(0.1, 0.2, 8)
    folder = changed("deepseek_v3", put("model.layers.1.mlp.gate.e_score_correction_bias", bias))
    gate = inside(Original(folder, "float64")).model.layers[1].mlp.gate
    assert torch.equal(gate.e_score_correction_bias, bias.double())


def quantise(tensors: dict[str, torch.Tensor], side: int) -> dict[str, torch.Tensor]:
    """Turn the matrices of the layers into float8 with random scales; return what they stand for."""
    plain = {}
    for key in [key for key in tensors if key.endswith("_proj.weight")]:
        weight = tensors[key].float().to(torch.float8_e4m3fn)
        rows, columns = weight.shape
        scale = torch.rand(-(-rows // side), -(-columns // side)) + 0.5
        tensors |= {key: weight, f"{key}_scale_inv": scale}
        plain[key] = torch.empty(rows, columns)
        for row in range(rows):
            for column in range(columns):
                plain[key][row, column] = weight[row, column].float() * scale[row // side, column // side]
    return plain


def test_float8_blocks_are_multiplied_out(changed: Change, tmp_path: Path) -> None:
    plain: dict[str, torch.Tensor] = {}
    fp8 = {"quant_method": "fp8", "weight_block_size": [20, 20]}
    folder = changed("deepseek_v3", lambda tensors: plain.update(quantise(tensors, 20)), quantization_config=fp8)
    tensors = load_file(folder / "model.safetensors")
    found = dequantise(tensors, fp8)
    assert all(torch.equal(found[key], weight) for key, weight in plain.items())
    (tmp_path / "plain").mkdir()
    shutil.copy(folder / "config.json", tmp_path / "plain")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "plain" / "config.json").write_text(json.dumps(config))
    rest = {key: tensor for key, tensor in tensors.items() if not key.endswith("_scale_inv")}
    save_file(rest | plain, tmp_path / "plain" / "model.safetensors")
    assert np.array_equal(logits(folder), logits(tmp_path / "plain"))


def test_a_weight_and_its_scale_may_lie_in_two_files(changed: Change) -> None:
    fp8 = {"quant_method": "fp8", "weight_block_size": [20, 20]}
    folder = changed("llama", lambda tensors: quantise(tensors, 20), quantization_config=fp8)
    before = logits(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {key: "b.safetensors" if key.endswith("_scale_inv") else "a.safetensors" for key in tensors}
    for shard in ("a.safetensors", "b.safetensors"):
        save_file({key: tensors[key] for key in tensors if where[key] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert np.array_equal(logits(folder), before)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (
            drop("model.layers.0.mlp.up_proj.weight"),
            r"up_proj cannot be multiplied out: KeyError\('weight'\)",
        ),
        (drop("model.layers.0.mlp.up_proj.weight_scale_inv"), r"up_proj.weight \(torch.float8_e4m3fn\)"),
        (
            put("model.layers.0.mlp.up_proj.weight_scale_inv", torch.ones(2, 2)),
            r"up_proj cannot be .* has scales \(3, 2\).* weight_scale_inv torch.float32 \(2, 2\)",
        ),
        (
            put("model.layers.0.mlp.up_proj.weight", torch.ones(48, 32)),
            "up_proj cannot be multiplied out: .* weight torch.float32",
        ),
    ],
)
def test_float8_weights_that_do_not_go_with_their_scales_are_refused(edit: Edit, says: str, changed: Change) -> None:
    def both(tensors: dict[str, torch.Tensor]) -> None:
        quantise(tensors, 20)
        edit(tensors)

    folder = changed("llama", both, quantization_config={"quant_method": "fp8", "weight_block_size": [20, 20]})
    with pytest.raises(ParityError, match=says):
        Original(folder, "float32")


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes' cannot be read"),
        ({"quant_method": "fp8"}, "proj cannot be multiplied out: .*weight_block_size"),
        ({"quant_method": "fp8", "weight_block_size": [0, 1]}, "proj cannot be multiplied out: .*zero"),
    ],
)
def test_other_quantisation_is_refused(quantization: dict[str, Any], says: str, changed: Change) -> None:
    folder = changed("llama", lambda tensors: quantise(tensors, 20), quantization_config=quantization)
    with pytest.raises(ParityError, match=says):
        Original(folder, "float32")


def test_a_bias_of_zeros_that_the_model_has_not_is_left_out(changed: Change, checkpoint: Callable[[str], Path]) -> None:
    folder = changed("llama", put("model.layers.0.self_attn.q_proj.bias", torch.zeros(32)))
    assert np.array_equal(logits(folder), logits(checkpoint("llama")))


def test_an_unknown_model_is_refused(changed: Change) -> None:
    with pytest.raises(ParityError, match="transformers cannot read"):
        Original(changed("llama", model_type="lama"), "float32")


def test_code_in_a_checkpoint_is_not_run(changed: Change) -> None:
    folder = changed("llama", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('run')")
    assert Original(folder, "float32").layers == 2


def test_files_that_are_missing_or_broken_are_named(changed: Change, tmp_path: Path) -> None:
    folder = changed("llama")
    (folder / "model.safetensors").write_bytes(b"PK\3\4 no tensors here")
    with pytest.raises(ParityError, match=r"model.safetensors cannot be read"):
        Original(folder, "float32")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ParityError, match="no weights to compare with"):
        Original(folder, "float32")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../x.safetensors"}}))
    with pytest.raises(ParityError, match=r"outside the checkpoint: ../x.safetensors"):
        Original(folder, "float32")
    save_file({"model.norm.weight": torch.ones(32)}, folder / "a.safetensors")
    index.write_text(
        json.dumps({"weight_map": {"model.norm.weight": "a.safetensors", "lm_head.weight": "a.safetensors"}})
    )
    with pytest.raises(ParityError, match="no file holds: lm_head"):
        Original(folder, "float32")
