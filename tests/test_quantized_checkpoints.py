"""Checkpoints in every quantized form, from the command line: converted, verified, inspected, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import packing
import pytest
import tiny
import torch
from command import run

from porter.checkpoint import open_checkpoint
from porter.source import Source
from porter.verify.load import Stored

SIZES = {  # such that eight, the width of a word and of a group here, divides every side
    "llama": {"intermediate_size": 96},
    "deepseek_v3": {
        "hidden_size": 56,
        "intermediate_size": 80,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "moe_intermediate_size": 24,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
    },
}


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint in float32, by family; copy it before you change it."""
    made: dict[str, Path] = {}

    def give(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp(family) / "checkpoint"
            made[family] = tiny.write_checkpoint(folder, tiny.sample(family, **SIZES[family]))
        return made[family]

    return give


@pytest.fixture
def quantized(plain: Callable[[str], Path], tmp_path: Path) -> Callable[[str, str], Path]:
    def give(family: str, form: str) -> Path:
        folder = Path(shutil.copytree(plain(family), tmp_path / f"{family}-{form}"))
        packing.quantize_checkpoint(folder, form)
        return folder

    return give


@pytest.mark.parametrize("form", packing.FORMS)
@pytest.mark.parametrize("family", SIZES)
def test_two_readings_that_know_nothing_of_each_other_agree(
    family: str, form: str, quantized: Callable[[str, str], Path]
) -> None:
    """What a port is made of, and what verify gives the original."""
    folder = quantized(family, form)
    source, tensors = Source(open_checkpoint(folder)), Stored(folder).read()
    assert tensors.keys() <= source.names()
    for name, tensor in tensors.items():
        count = source.shape(name)[0]
        read = list(source.rows(source.checkpoint.read, name, 0, count, np.dtype(np.float32)))
        np.testing.assert_array_equal(np.concatenate(read), tensor.float().numpy(), err_msg=name)


def trials() -> Iterator[Any]:
    """Every form in a model that has all there is: experts, and weights that are split by rows."""
    quick = {"fp8", "gptq-scattered", "awq", "packed-asymmetric"}
    for form in packing.FORMS:
        yield pytest.param("deepseek_v3", form, marks=() if form in quick else pytest.mark.slow)
    yield pytest.param("llama", "int8")


@pytest.mark.parametrize(("family", "form"), list(trials()))
def test_a_port_computes_what_its_codes_mean(
    family: str, form: str, quantized: Callable[[str, str], Path], tmp_path: Path
) -> None:
    checkpoint, port = quantized(family, form), tmp_path / "port"
    assert run("convert", checkpoint, "--target", "onnxruntime-cpu", "-o", port).code == 0
    verified = run("verify", port, "--against", checkpoint, "--json")
    assert verified.code == 0, verified.out
    assert verified.json()["passed"]


def test_every_source_range_is_in_the_manifest(quantized: Callable[[str, str], Path], tmp_path: Path) -> None:
    checkpoint = quantized("llama", "gptq-scattered")
    assert run("convert", checkpoint, "--target", "onnxruntime-cpu", "-o", tmp_path / "port").code == 0
    files = json.loads((tmp_path / "port" / "porter.json").read_text())["source"]["files"]
    ranges = {name.partition("[")[0] for file in files for name in file["ranges"]}
    assert ranges == set(open_checkpoint(checkpoint).tensors)


@pytest.mark.parametrize(
    ("form", "part"), [("gptq", "scales"), ("gptq", "qzeros"), ("fp8", "weight_scale_inv"), ("fp8", "weight")]
)
def test_verify_sees_what_was_changed(
    form: str, part: str, quantized: Callable[[str, str], Path], tmp_path: Path
) -> None:
    checkpoint = quantized("llama", form)
    name = f"model.layers.1.mlp.down_proj.{part}"
    assert run("convert", checkpoint, "--target", "onnxruntime-cpu", "-o", tmp_path / "port").code == 0
    info = open_checkpoint(checkpoint).tensors[name]
    data = bytearray(info.file.read_bytes())
    data[info.offset + 1] ^= 0x10
    info.file.write_bytes(data)
    verified = run("verify", tmp_path / "port", "--against", checkpoint, "--level", "weights", "--json")
    failed = {check["name"] for check in verified.json()["levels"][0]["checks"] if check["status"] == "fail"}
    assert (verified.code, failed) == (1, {"weights unlike their source", "source ranges changed"})


def test_a_packed_weight_is_no_reference(quantized: Callable[[str, str], Path]) -> None:
    """In the checkpoint's own folder, what is packed is written and the rest stays where it is."""
    checkpoint = quantized("llama", "awq")
    done = run(
        "convert", checkpoint, "--target", "onnxruntime-cpu", "-o", checkpoint, "--weights", "reference", "--json"
    )
    assert done.code == 0, done.err
    assert len(done.json()["weights"]) == 2
    assert run("verify", checkpoint, "--against", checkpoint).code == 0


def test_inspect_names_the_form(quantized: Callable[[str, str], Path]) -> None:
    found = run("inspect", quantized("llama", "gptq"), "--json").json()
    assert found["quantization"] == "gptq, 4 bits, groups of 8"
    assert "gptq, 4 bits, groups of 8" in run("inspect", quantized("deepseek_v3", "gptq")).out


def test_inspect_names_none_where_there_is_none(plain: Callable[[str], Path]) -> None:
    assert run("inspect", plain("llama"), "--json").json()["quantization"] is None


DOWN = "model.layers.1.mlp.down_proj"


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], object], **quantization: Any) -> None:
    checkpoint = open_checkpoint(folder)
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    change(tensors)
    config = dict(checkpoint.config)
    config["quantization_config"] = config["quantization_config"] | quantization
    packing.write(folder, tensors, None)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("form", "change", "quantization", "says"),
    [
        ("fp8", lambda t: t.pop(f"{DOWN}.weight_scale_inv"), {}, f"'{DOWN}.weight' has no"),
        ("packed", lambda t: t.pop(f"{DOWN}.weight_scale"), {}, f"has no '{DOWN}.weight_scale'"),
        ("gptq", lambda t: t.pop(f"{DOWN}.scales"), {}, f"has no '{DOWN}.scales'"),
        ("awq", lambda t: t.pop(f"{DOWN}.qzeros"), {}, f"has no '{DOWN}.qzeros'"),
        ("int8", lambda t: t.pop(f"{DOWN}.weight_scale"), {}, f"has no '{DOWN}.weight_scale'"),
        ("gptq", lambda t: t.update({f"{DOWN}.scales": t[f"{DOWN}.scales"][1:]}), {}, f"'{DOWN}.scales' has shape"),
        ("gptq", lambda t: t.update({f"{DOWN}.qweight": t[f"{DOWN}.qweight"][:, 8:]}), {}, "has shape [12, 72]"),
        ("gptq", lambda t: None, {"bits": 3}, "bits 3, which is not read"),
        ("awq", lambda t: None, {"bits": 3}, "bits 3, which is not read"),
        ("packed", lambda t: None, {"quant_method": "quark"}, "'quark' is not read"),
        ("packed", lambda t: None, {"format": "nvfp4-pack-quantized"}, "'nvfp4-pack-quantized', which is not read"),
    ],
)
def test_a_damaged_or_unknown_checkpoint_is_refused(
    form: str,
    change: Callable[[dict[str, np.ndarray]], object],
    quantization: dict[str, Any],
    says: str,
    quantized: Callable[[str, str], Path],
    tmp_path: Path,
) -> None:
    folder = quantized("llama", form)
    rewrite(folder, change, **quantization)
    refusal = run("convert", folder, "--target", "onnxruntime-cpu", "-o", tmp_path / "port", "--json").refusal()
    assert says in refusal
    assert not (tmp_path / "port").exists()


def test_codes_of_the_form_that_is_asked_for_cost_nothing_more(
    quantized: Callable[[str, str], Path], tmp_path: Path
) -> None:
    source = quantized("llama", "int8")
    given = ("convert", source, "--target", "onnxruntime-cpu", "-o", tmp_path / "port", "--quantize", "int8", "--json")
    assert run(*given).code == 0
    found = run("verify", tmp_path / "port", "--against", source, "--level", "semantics", "--json")
    assert found.code == 0
    (steps,) = [c for c in found.json()["levels"][0]["checks"] if c["name"] == "steps from a number to its code"]
    assert steps["value"] == 0


# ------------------------------------------------------------------------------ activations that were recorded

DOWN = "model.layers.1.mlp.down_proj"


def with_peak(folder: Path, peak: float) -> Path:
    """Static FP8 activations, one of which reached `peak` while the original was calibrated."""
    tiny.edit_tensors(folder, add={f"{DOWN}.input_scale": torch.tensor([peak / 448])})
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for group in config["quantization_config"]["config_groups"].values():
        group["input_activations"] = {"num_bits": 8, "type": "float", "dynamic": False, "strategy": "tensor"}
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("peak", "dtype"), [(60000.0, "float16"), (70000.0, "bfloat16"), (70000.0, "float32")])
def test_activations_that_fit_the_dtype_are_no_obstacle(
    peak: float, dtype: str, quantized: Callable[[str, str], Path], tmp_path: Path
) -> None:
    folder = with_peak(quantized("llama", "float8-rows"), peak)
    arguments = ["convert", folder, "--target", "ascend-910b", "-o", tmp_path / "port", "--dtype", dtype, "--json"]
    assert run(*arguments).code == 0


def test_activations_beyond_float16_are_refused_by_name(quantized: Callable[[str, str], Path], tmp_path: Path) -> None:
    folder = with_peak(quantized("llama", "float8-rows"), 70000.0)
    refusal = run(
        "convert", folder, "--target", "ascend-910b", "-o", tmp_path / "port", "--dtype", "float16", "--json"
    ).refusal()
    assert f"by '{DOWN}.input_scale' activations reached 7e+04, which float16 cannot hold" in refusal
    assert "--dtype bfloat16" in refusal
    assert not (tmp_path / "port").exists()
