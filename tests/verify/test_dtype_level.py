"""The port at the dtype that is deployed: sound ones pass in every family, and what rounds too much is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from measured import TARGET, checks, report, round_floats, write
from onnx import TensorProto
from surgery import constants, graph_of, set_value, value_of, weight_of

from porter.families import families
from porter.port import convert
from porter.verify import dtype as dtype_level
from porter.verify import prompts
from porter.verify.original import Original
from porter.verify.prompts import Prompts, write_prompts

NARROW = ["float16", "bfloat16"]
NORMS = r"norm\.RMSNorm\."


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("family", sorted(families()))
def test_a_sound_port_passes(family: str, dtype: str, tmp_path: Path) -> None:
    checkpoint, port = write(tmp_path, family, dtype)
    found = checks(report(port, checkpoint, "dtype"))
    assert {check["status"] for check in found.values()} == {"pass"}
    assert {"logits", "layers", "cache"} <= set(found)
    for check in found.values():
        low, high = check["interval"]
        assert 0.5 < low <= check["value"] <= high <= check["limit"] <= 1.5
        assert check["original"] > 100 * 2**-24  # the original is narrow too, or the ratio would say nothing


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Llama and its port in float16: copy it before you harm it."""
    return write(tmp_path_factory.mktemp("sound"), "llama", "float16")


def test_a_float32_port_is_run_as_it_is(llama: Path, llama_port: Path, deepseek: Path, deepseek_port: Path) -> None:
    for port, checkpoint in ((llama_port, llama), (deepseek_port, deepseek)):
        found = report(port, checkpoint, "dtype")
        assert found["status"] == "pass"
        assert {check["limit"] for check in checks(found).values()} == {10}
        assert all(check["original"] < 1e-4 for check in checks(found).values())


def norms_in_bfloat16(port: Path) -> None:
    round_floats(port, NORMS, TensorProto.BFLOAT16)


def tables_through_bfloat16(port: Path) -> None:
    for name in ("cos", "sin"):
        with weight_of(port, f"model.rotary_emb.{name}") as table:
            kept = table.astype(np.float32).view(np.uint32) & 0xFFFF0000
            table[:] = kept.view(np.float32).astype(np.float16)


def another_scale(port: Path) -> None:
    with graph_of(port) as graph:
        (scale,) = [t for t in constants(graph, "const.float.scalar.0.") if value_of(t) == np.float32(12**-0.5)]
        set_value(scale, value_of(scale) * 1.01)


@pytest.mark.parametrize("plant", [norms_in_bfloat16, tables_through_bfloat16, another_scale])
def test_a_mistake_is_found(plant: object, sound: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, port = sound
    copy = Path(shutil.copytree(port, tmp_path / "port"))
    assert callable(plant)
    plant(copy)
    found = checks(report(copy, checkpoint, "dtype"))
    assert found["logits"]["status"] == "fail"
    assert found["logits"]["interval"][0] > found["logits"]["limit"]


def test_semantics_cannot_see_what_rounds_too_much(sound: tuple[Path, Path], tmp_path: Path) -> None:
    """It widens the port: this is what the dtype level is for."""
    checkpoint, port = sound
    copy = Path(shutil.copytree(port, tmp_path / "port"))
    norms_in_bfloat16(copy)
    assert report(copy, checkpoint, "semantics")["status"] == "pass"


@pytest.mark.parametrize("harm", [False, True])
def test_statistics_of_norms_belong_into_float32(harm: bool, tmp_path: Path) -> None:
    """Of a trained model: in float16 they cost a quarter of its accuracy, and no such port passes."""
    checkpoint = tiny.SAMPLES / "deepseek-v3-tiny"
    convert(checkpoint, TARGET["float16"], tmp_path / "port", dtype="float16")
    if harm:
        round_floats(tmp_path / "port", NORMS, TensorProto.FLOAT16)
    found = report(tmp_path / "port", checkpoint, "dtype")
    assert (found["status"] == "pass") == (not harm)
    assert (checks(found)["logits"]["value"] > 1.15) == harm


def test_an_interval_that_holds_the_limit_calls_for_more_prompts(
    sound: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, port = sound
    counts = []

    def write(original: Original, positions: int | None, count: int) -> Prompts:
        counts.append(count)
        return write_prompts(original, positions, count)

    monkeypatch.setattr(prompts, "write_prompts", write)
    few = checks(report(port, checkpoint, "dtype"))["logits"]
    monkeypatch.setattr(dtype_level, "LOGITS_LIMIT", few["value"])
    more = checks(report(port, checkpoint, "dtype"))["logits"]
    assert counts == [32, 32, 96]
    assert more["port_standard_error"] < 0.7 * few["port_standard_error"]
    monkeypatch.setattr(prompts, "COUNTS", (32,))
    found = checks(report(port, checkpoint, "dtype"))["logits"]
    assert (found["status"], found["detail"][:10]) == ("inconclusive", "32 prompts")


def test_an_original_that_overflows_decides_nothing(tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample("llama"))
    head = tiny.load_file(checkpoint / "model.safetensors")["lm_head.weight"]
    tiny.edit_tensors(checkpoint, add={"lm_head.weight": head * 60000 / head.abs().max()})
    convert(checkpoint, "onnxruntime-cpu", tmp_path / "port", dtype="float16")
    found = checks(report(tmp_path / "port", checkpoint, "dtype"))
    assert found["logits"]["status"] == "inconclusive"
    assert "not finite" in found["logits"]["detail"]
    assert found["layers"]["status"] == "pass"


def test_a_port_that_overflows_fails(sound: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, port = sound
    copy = Path(shutil.copytree(port, tmp_path / "port"))
    with weight_of(copy, "lm_head.weight") as weight:
        weight[0] = 60000
    found = checks(report(copy, checkpoint, "dtype"))
    assert (found["logits"]["status"], found["logits"]["value"]) == ("fail", "inf")


def test_a_port_that_does_not_run_fails(sound: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, port = sound
    copy = Path(shutil.copytree(port, tmp_path / "port"))
    with graph_of(copy) as graph:
        graph.node[5].op_type = "NoSuchOperator"
    (check,) = checks(report(copy, checkpoint, "dtype")).values()
    assert "ONNX Runtime" in check["detail"]


def test_a_damaged_port_is_not_run(sound: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, port = sound
    copy = Path(shutil.copytree(port, tmp_path / "port"))
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes() + b"\0")
    (check,) = checks(report(copy, checkpoint, "dtype")).values()
    assert check["name"] == "damage for which the port was not run"
