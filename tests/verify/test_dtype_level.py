"""The port at the dtype that is deployed: sound ones pass in every family, and what rounds too much is found."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import takers
import tiny
from measured import TARGET, checks, report, round_floats, write
from onnx import TensorProto
from surgery import constants, graph_of, rewire, set_value, value_of, weight_of

from porter.families import families
from porter.port import convert
from porter.verify import benchmark, measuring
from porter.verify import dtype as dtype_level
from porter.verify.original import Original
from porter.verify.prompts import Prompts, write_prompts
from porter.verify.variants import VARIANTS

NARROW = ["float16", "bfloat16"]
KINDS = ["", ", relative", ", largest relative", ", upward", ", outward", ", small numbers"]
EVERY = {"values not finite", *(f"noise floor: {name}" for name in VARIANTS)}
WITHOUT_SDPA = {"gemma2"}  # transformers has no such attention with capped scores
NORMS = r"norm\.RMSNorm\."


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        pytest.param(family, dtype, marks=takers.in_turn(n, 2 * m))
        for n, family in enumerate(sorted(families()))
        for m, dtype in enumerate(NARROW)
    ],
)
def test_a_sound_port_passes(family: str, dtype: str, tmp_path: Path) -> None:
    checkpoint, port = write(tmp_path, family, dtype)
    document = report(port, checkpoint, "dtype")
    found = checks(document)
    assert {check["status"] for check in found.values()} == {"pass", "measured"}
    quantities = {"logits", "layers", "cache"} | ({"router"} if has_experts(family) else set())
    every = EVERY - ({"noise floor: sdpa attention"} if family in WITHOUT_SDPA else set())
    assert set(found) == every | {f"{q}{kind}" for q in quantities for kind in KINDS} | {
        f"routes forced: {q}" for q in (quantities if has_experts(family) else ())
    }
    for name in (*quantities, *(name for name in found if name.startswith("routes forced"))):
        low, high = found[name]["interval"]
        assert 0.5 < low <= found[name]["value"] <= high <= found[name]["limit"] <= 1.5
        assert found[name]["original"] > 100 * 2**-24  # the original is narrow too, or the ratio would say nothing
    floors = [found[name] for name in every if name.startswith("noise floor")]
    assert all(0.5 < floor["value"] < 1.5 and "port" not in floor for floor in floors)
    assert_told_place_by_place(document, family)


def has_experts(family: str) -> bool:
    """Whether the sample of a family has experts."""
    built = families()[family].build(families()[family].read(tiny.sample(family)), "auto")
    return any(hasattr(layer.mlp, "experts") for layer in built.model.layers)


def assert_told_place_by_place(document: dict[str, Any], family: str) -> None:
    """The worst place of each quantity is the one that its check is about."""
    errors, found = document["figures"]["errors"], checks(document)
    scenarios = {"prompts": "", "routes forced": "routes forced: "}
    assert {error["scenario"] for error in errors} == set(scenarios if has_experts(family) else ["prompts"])
    for scenario, prefix in scenarios.items():
        for quantity in {error["quantity"] for error in errors if error["scenario"] == scenario}:
            places = [e for e in errors if (e["scenario"], e["quantity"]) == (scenario, quantity)]
            worst = max(places, key=lambda error: error["ratio"])
            check = found[prefix + quantity]
            assert worst["ratio"] == pytest.approx(check["value"])
            assert (worst["port"], worst["original"]) == (
                pytest.approx(check["port"]),
                pytest.approx(check["original"]),
            )
            assert check["detail"] == (f"worst at {worst['place']}" if worst["place"] else "")
            assert {e["layer"] for e in places} == ({None} if quantity == "logits" else {*map(layer_of, places)})


def layer_of(error: dict[str, Any]) -> int:
    return int(error["place"].partition(".")[0])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Llama and its port in float16: copy it before you harm it."""
    return write(tmp_path_factory.mktemp("sound"), "llama", "float16")


def test_a_float32_port_is_run_as_it_is(llama: Path, llama_port: Path, deepseek: Path, deepseek_port: Path) -> None:
    for port, checkpoint in ((llama_port, llama), (deepseek_port, deepseek)):
        found = report(port, checkpoint, "dtype")
        assert found["status"] == "pass"
        errors = [check for name, check in checks(found).items() if name in ("logits", "layers", "router", "cache")]
        assert {check["limit"] for check in errors} == {10}
        assert all(check["original"] < 1e-4 for check in errors)


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


@pytest.mark.parametrize(
    ("plant", "names"),
    [
        (norms_in_bfloat16, ["logits, relative", "layers", "logits, largest relative"]),
        (tables_through_bfloat16, ["logits, relative", "cache, outward"]),  # cosines that were cut are too small
        (another_scale, ["logits, relative", "layers, relative"]),
    ],
)
def test_a_mistake_is_found(plant: object, names: list[str], sound: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, port = sound
    copy = Path(shutil.copytree(port, tmp_path / "port"))
    assert callable(plant)
    plant(copy)
    found = checks(report(copy, checkpoint, "dtype"))
    assert found["logits"]["status"] == "fail"
    assert found["logits"]["interval"][0] > found["logits"]["limit"]
    assert {found[name]["status"] for name in names} == {"fail"}
    assert found["values not finite"]["status"] == "pass"


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

    monkeypatch.setattr(measuring, "write_prompts", write)
    monkeypatch.setattr(benchmark, "legal", lambda stages: {})  # no limit is tighter than what these reach
    few = checks(report(port, checkpoint, "dtype"))["logits"]
    monkeypatch.setattr(dtype_level, "LOGITS_LIMIT", few["value"])
    more = checks(report(port, checkpoint, "dtype"))["logits"]
    assert counts == [32, 32, 96]
    assert more["port_standard_error"] < 0.7 * few["port_standard_error"]
    monkeypatch.setattr(measuring, "COUNTS", (32,))
    found = checks(report(port, checkpoint, "dtype"))["logits"]
    assert (found["status"], found["detail"][:10]) == ("inconclusive", "32 prompts")


def test_an_original_that_overflows_decides_nothing(tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample("llama"))
    head = tiny.load_file(checkpoint / "model.safetensors")["lm_head.weight"]
    tiny.edit_tensors(checkpoint, add={"lm_head.weight": head * 60000 / head.abs().max()})
    convert(checkpoint, "onnxruntime-cpu", tmp_path / "port", dtype="float16")
    found = checks(report(tmp_path / "port", checkpoint, "dtype"))
    assert found["logits"]["status"] == found["logits, relative"]["status"] == "inconclusive"
    assert "not finite" in found["logits"]["detail"]
    assert found["layers"]["status"] == "pass"


def test_a_port_that_overflows_fails(sound: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, port = sound
    copy = Path(shutil.copytree(port, tmp_path / "port"))
    with weight_of(copy, "lm_head.weight") as weight:
        weight[0] = 60000
    found = checks(report(copy, checkpoint, "dtype"))
    assert (found["logits"]["status"], found["logits"]["value"]) == ("fail", "inf")
    strange = found["values not finite"]
    assert (strange["status"], strange["detail"]) == ("fail", f"{strange['value']} in logits")
    assert strange["value"] > 100


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A DeepSeek-V3 and its port in float16: copy it before you harm it."""
    return write(tmp_path_factory.mktemp("routed"), "deepseek_v3", "float16")


def ungrouped(port: Path) -> None:
    with graph_of(port) as graph:
        rewire(graph, "mlp.gate.Route.TopK_2.0", "mlp.gate.Route.Reshape_1", "mlp.gate.Route.Add")


@pytest.mark.parametrize(("plant", "found_by_arithmetic"), [(norms_in_bfloat16, True), (ungrouped, False)])
def test_forced_routes_part_arithmetic_from_choices(
    plant: object, found_by_arithmetic: bool, routed: tuple[Path, Path], tmp_path: Path
) -> None:
    """Which is why the choices are judged too, at the distribution level."""
    checkpoint, port = routed
    copy = Path(shutil.copytree(port, tmp_path / "port"))
    assert callable(plant)
    plant(copy)
    found = checks(report(copy, checkpoint, "dtype"))
    assert (found["routes forced: logits"]["status"] == "fail") == found_by_arithmetic
    if not found_by_arithmetic:
        choices = checks(report(copy, checkpoint, "distribution"))["routes changed, lead over noise"]
        assert choices["status"] == "fail"


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
