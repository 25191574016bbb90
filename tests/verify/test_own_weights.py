"""What a quantized port's codes mean is found in its files alone, and goes back under the checkpoint's names."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from inside import inside
from safetensors.numpy import load_file
from surgery import WEIGHTS, weight_of

from porter.errors import ParityError
from porter.manifest import open_port
from porter.model import Model, understand
from porter.port import convert
from porter.verify.load import Stored
from porter.verify.original import Original
from porter.verify.own_weights import check_codes, own_weights
from porter.verify.stored import Tensors

SIZES = {"hidden_size": 96, "intermediate_size": 64, "moe_intermediate_size": 32}
EXPERT = "model.layers.1.mlp.experts.5.{}_proj.weight"
STACK = "model.layers.1.mlp.experts.gate_up_proj"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DeepSeek-V3 in small, most of its rows in whole blocks of 32."""
    folder = tmp_path_factory.mktemp("own") / "checkpoint"
    return tiny.write_checkpoint(folder, tiny.sample("deepseek_v3", **SIZES), dtype=torch.bfloat16)


@pytest.fixture(scope="module", params=["int8", "int4:32", "int4:32:asymmetric"])
def port(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "port"
    convert(checkpoint, "onnxruntime-cpu", folder, dtype="float16", quantize=request.param)
    return folder


def both(port: Path, checkpoint: Path) -> tuple[Tensors, Tensors, Model]:
    """The port's own weights, the checkpoint's tensors, and the checkpoint understood."""
    opened = open_port(port)
    model = understand(checkpoint, "auto", opened.quantization)
    return own_weights(opened, model), Stored(checkpoint).read(), model


def test_they_have_the_names_and_shapes_of_the_checkpoint(port: Path, checkpoint: Path) -> None:
    own, tensors, model = both(port, checkpoint)
    coded = {piece.source for w in model.binding.weights if w.parameter.quantization for piece in w.pieces}
    assert own.keys() == coded
    assert {name: t.shape for name, t in own.items()} == {name: tensors[name].shape for name in coded}
    assert all(EXPERT.format(part) in own for part in ("gate", "up", "down"))


def test_they_are_what_the_codes_say_by_hand(port: Path, checkpoint: Path) -> None:
    """One row of one expert's up projection, which lies below its gate in the stack."""
    own, _, _ = both(port, checkpoint)
    stored = load_file(port / WEIGHTS)
    codes, scale = stored[STACK][5, 32 + 7], stored[STACK + "_scale"][5, 32 + 7]
    if codes.dtype == np.int8:
        expected = [np.float32(c) * scale for c in codes]
    else:
        zero = stored.get(STACK + "_zero_point", np.full((12, 64, 3), 8, np.uint8))[5, 32 + 7]
        nibbles = [n for byte in codes.tolist() for n in (byte % 16, byte // 16)]
        expected = [np.float32(n - int(zero[k // 32])) * scale[k // 32] for k, n in enumerate(nibbles)]
    np.testing.assert_array_equal(own[EXPERT.format("up")][7].numpy(), expected)


def test_the_original_takes_them_in_place_of_its_own(port: Path, checkpoint: Path) -> None:
    own, _, _ = both(port, checkpoint)
    held = inside(Original(checkpoint, "float64", lambda wanted: own)).state_dict()
    up = held["model.layers.1.mlp.experts.gate_up_proj"][5, 32:]
    assert torch.equal(up, own[EXPERT.format("up")].double())
    plain = inside(Original(checkpoint, "float64")).state_dict()["model.layers.1.mlp.experts.gate_up_proj"]
    assert not torch.equal(plain[5, 32:], up)


def test_a_port_of_numbers_has_none(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, "onnxruntime-cpu", tmp_path / "port")
    assert both(tmp_path / "port", checkpoint)[0] == {}


# ------------------------------------------------------------------ codes that are not the nearest


def test_sound_codes_are_at_most_half_a_step_off(port: Path, checkpoint: Path) -> None:
    _, tensors, model = both(port, checkpoint)
    check = check_codes(open_port(port), model, tensors)
    assert check.status == "pass"
    assert 0.45 < check.value <= 0.5 + 2**-14  # of many numbers some are nearly in the middle


@pytest.mark.parametrize("harm", ["a step", "nonsense"])
def test_what_was_changed_is_named(harm: str, port: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Codes, scales, and zero points where the form has any: the last of each, one after the other."""
    for part in [name.removeprefix(STACK) for name in load_file(port / WEIGHTS) if name.startswith(STACK)]:
        copy = Path(shutil.copytree(port, tmp_path / f"port{part}"))
        with weight_of(copy, STACK + part) as array:
            last = array.reshape(-1)[-1:]
            if part == "_scale":
                last[:] = last * 1.2 if harm == "a step" else np.nan
            else:
                last[:] ^= 1 if harm == "a step" else 4
        _, tensors, model = both(copy, checkpoint)
        check = check_codes(open_port(copy), model, tensors)
        assert check.status == "fail"
        assert check.detail == "worst in " + EXPERT.format("up").replace("5", "11")


def test_a_tensor_that_is_gone_is_an_error(port: Path, checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(port, tmp_path / "port"))
    data = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(data.replace(b'gate_up_proj_scale"', b'gate_up_proj_scalf"'))
    with pytest.raises(ParityError, match="no file of the port holds"):
        both(copy, checkpoint)
