"""`--quantize`: weights as codes, for every family and every front end, and nothing else of the port changed by it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import packing
import pytest
import takers
import tiny
from command import Outcome, digests, run
from onnx_run import error
from safetensors.numpy import load_file
from surgery import WEIGHTS, constants, graph_of, header, set_value, value_of, weight_of

from porter.families import families

FORMS = ("int8", "int4:32", "int4:32:asymmetric")
DTYPES = {"int8": "float32", "int4:32": "float16", "int4:32:asymmetric": "float32"}
CODES = {"I8", "U8"}
QUERIES, DOWN = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(
    scope="module", params=[pytest.param(f, marks=takers.in_turn(n)) for n, f in enumerate(sorted(families()))]
)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family's sample, most of its rows in whole blocks of 32."""
    return written(request.param, tmp_path_factory.mktemp("quantized") / request.param)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written("llama", tmp_path_factory.mktemp("quantized") / "dense")


@pytest.fixture(scope="module")
def dense_port(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In int4 with zero points: copy it before you harm it."""
    folder = tmp_path_factory.mktemp("quantized") / "port"
    assert convert(dense, folder, "int4:32:asymmetric").code == 0
    return folder


@pytest.fixture
def copy(dense_port: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dense_port, tmp_path / "copy"))


def written(family: str, folder: Path) -> Path:
    config = tiny.sample(family)
    if "long_factor" in (config.get("rope_scaling") or {}):  # which fits its own width only
        config["rope_scaling"] = None
    sizes = {"hidden_size": 32 * config["num_attention_heads"], "intermediate_size": 64, "moe_intermediate_size": 32}
    return tiny.write_checkpoint(folder, config | {n: size for n, size in sizes.items() if n in config})


def convert(checkpoint: Path, output: Path, form: str, *more: object) -> Outcome:
    target = [] if "--target" in more else ["--target", "onnxruntime-cpu"]
    return run("convert", checkpoint, "-o", output, "--quantize", form, "--json", *target, *more)


def verify(port: Path, checkpoint: Path, level: str) -> Outcome:
    return run("verify", port, "--against", checkpoint, "--level", level, "--tokens", 2, "--json")


def failures(found: Outcome) -> dict[str, str]:
    """The checks that failed, and what they say."""
    checks = [check for level in found.json()["levels"] for check in level["checks"]]
    failed = {check["name"]: check["detail"] for check in checks if check["status"] == "fail"}
    assert found.code == (1 if failed else 0), found
    return failed


def manifest(port: Path) -> dict[str, Any]:
    found = json.loads((port / "porter.json").read_text())
    assert isinstance(found, dict)
    return found


# ------------------------------------------------------------------ every family, every front end


@pytest.mark.parametrize("target", takers.DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_every_byte_is_what_the_source_makes(checkpoint: Path, form: str, target: str, tmp_path: Path) -> None:
    done = convert(checkpoint, tmp_path / "port", form, "--target", target, "--dtype", DTYPES[form])
    assert done.code == 0, done
    assert done.json()["quantize"] == manifest(tmp_path / "port")["quantize"] == form
    assert failures(verify(tmp_path / "port", checkpoint, "weights")) == {}


def combinations() -> Iterator[Any]:
    """Each form once or twice by default; all of them on all front ends are slow."""
    for n, target in enumerate(takers.DEVICES):
        for m, form in enumerate(FORMS):
            yield pytest.param(form, target, marks=[] if n == m else [pytest.mark.slow])


@pytest.mark.parametrize(("form", "target"), list(combinations()))
def test_the_graph_computes_what_the_codes_mean(checkpoint: Path, form: str, target: str, tmp_path: Path) -> None:
    """At the limits of float32, whatever the codes cost."""
    assert convert(checkpoint, tmp_path / "port", form, "--target", target, "--dtype", DTYPES[form]).code == 0
    found = verify(tmp_path / "port", checkpoint, "semantics")
    assert failures(found) == {}
    assert f"{form} codes" in " ".join(found.json()["notes"])


@pytest.mark.parametrize("form", FORMS)
def test_what_is_never_codes_stays_as_it_is(checkpoint: Path, form: str, tmp_path: Path) -> None:
    """Embeddings, the output projection, norms, biases, routers, W_UK and W_UV: the bytes of a port of numbers."""
    plain, port = tmp_path / "plain", tmp_path / "port"
    assert convert(checkpoint, plain, "none").code == convert(checkpoint, port, form).code == 0
    stored, numbers = load_file(port / WEIGHTS), load_file(plain / WEIGHTS)
    codes = {name for name, entry in header(port).items() if entry.get("dtype") in CODES}
    whole = {name for name in numbers if name in codes}
    left = set(manifest(port)["left_in_float"])
    meant = {n for n in numbers if n.endswith(("_proj.weight", "proj_with_mqa.weight", "_proj")) and "kv_b" not in n}
    assert whole | left == meant
    assert whole
    assert not whole & left
    for name in numbers.keys() - whole:
        assert np.array_equal(stored[name], numbers[name]), name
        assert name in left or name not in meant
    assert all(numbers[name].shape[-1] % 32 for name in left)


# ------------------------------------------------------------------ what it says, and what it weighs


@pytest.mark.parametrize(("form", "bits"), [("int8", 8), ("int4:32", 5), ("int4:32:asymmetric", 5.25)])
def test_codes_take_the_bits_that_they_should(form: str, bits: float, dense: Path, tmp_path: Path) -> None:
    assert convert(dense, tmp_path / "port", form).code == 0
    numbers = load_file(dense / "model.safetensors")[DOWN].size
    found = {n: a for n, a in load_file(tmp_path / "port" / WEIGHTS).items() if n.startswith(DOWN)}
    rows = 32 * len(found[DOWN]) if form == "int8" else 0
    assert sum(array.nbytes for array in found.values()) * 8 == numbers * bits + rows


def test_a_dry_run_tells_the_bytes_of_codes(dense: Path, dense_port: Path, tmp_path: Path) -> None:
    told = convert(dense, tmp_path / "port", "int4:32:asymmetric", "--dry-run").json()
    assert told["quantize"] == "int4:32:asymmetric"
    assert [w["bytes"] for w in told["weights"]] == [(dense_port / WEIGHTS).stat().st_size]


def test_it_is_told_to_people_too(dense: Path, dense_port: Path, tmp_path: Path) -> None:
    told = run("convert", dense, "--target", "onnxruntime-cpu", "-o", tmp_path / "port", "--quantize", "int8")
    assert "weights as codes" in told.out
    assert run("inspect", dense_port, "--json").json()["quantize"] == "int4:32:asymmetric"


def test_the_same_bytes_again(dense: Path, dense_port: Path, tmp_path: Path) -> None:
    assert convert(dense, tmp_path / "port", "int4:32:asymmetric", "--jobs", 1).code == 0
    assert digests(tmp_path / "port") == digests(dense_port)


def test_what_is_not_codes_may_stay_in_the_checkpoint(dense: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(dense, tmp_path / "source"))
    assert convert(source, source, "int8", "--weights", "reference").code == 0
    assert {e["file"] for e in manifest(source)["weights"]} == {WEIGHTS, "model.safetensors"}
    assert header(source).keys() & {QUERIES, "model.embed_tokens.weight"} == {QUERIES}
    assert failures(verify(source, source, "all")) == {}


@pytest.mark.parametrize(("stored", "form"), [("fp8", "int4:32"), ("awq", "int4:32"), ("int8", "int8")])
def test_codes_are_made_of_codes(stored: str, form: str, dense: Path, tmp_path: Path) -> None:
    """Of a checkpoint that is quantized itself: decoded and encoded anew, or taken over where the form is the same."""
    source = Path(shutil.copytree(dense, tmp_path / "source"))
    packing.quantize_checkpoint(source, stored)
    assert convert(source, tmp_path / "port", form).code == 0
    assert failures(verify(tmp_path / "port", source, "weights")) == {}
    found = verify(tmp_path / "port", source, "semantics")
    assert failures(found) == {}
    (steps,) = [c for c in found.json()["levels"][0]["checks"] if c["name"].startswith("steps")]
    assert (steps["value"] == 0) == (stored == form)


def test_a_port_of_codes_runs_without_porter(dense: Path, dense_port: Path, tmp_path: Path) -> None:
    """It is near the port of numbers, and not the same."""
    assert convert(dense, tmp_path / "plain", "none").code == 0
    ids = np.arange(12)[None]
    logits = []
    for port in (tmp_path / "plain", dense_port):
        runner = tiny.Runner(port)
        logits.append(runner.run(ids, ids, np.ones_like(ids), runner.empty(1, 0))[0])
    assert 1e-3 < error(logits[1], logits[0]) < 0.5


# ------------------------------------------------------------------ planted faults


@pytest.mark.parametrize("part", ["", "_scale", "_zero_point"])
def test_a_changed_code_scale_or_zero_point_is_found(part: str, copy: Path, dense: Path) -> None:
    with weight_of(copy, QUERIES + part) as array:
        flat = array.reshape(-1)
        flat[3] = flat[3] * 1.25 if part == "_scale" else flat[3] ^ 1
    assert failures(verify(copy, dense, "weights")) == {"weights unlike their source": QUERIES}
    assert failures(verify(copy, dense, "semantics")) == {"steps from a number to its code": f"worst in {QUERIES}"}


def test_a_graph_that_decodes_otherwise_is_found(copy: Path, dense: Path) -> None:
    """The two halves of a byte change places."""
    with graph_of(copy) as graph:
        (table,) = constants(graph, "const.uint8.256x2")
        set_value(table, value_of(table)[:, ::-1])
    found = failures(verify(copy, dense, "semantics"))
    assert "prefill: logits" in found
    assert "steps from a number to its code" not in found


def test_scales_of_another_weight_are_found(copy: Path, dense: Path) -> None:
    other = QUERIES.replace("layers.1", "layers.2")
    with graph_of(copy) as graph:
        for node in graph.node:
            node.input[:] = [n.replace(QUERIES, other) if n == f"{QUERIES}_scale" else n for n in node.input]
    assert "prefill: logits" in failures(verify(copy, dense, "semantics"))


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize("form", ["int3", "int4:33", "8", "int8:asymmetric"])
def test_an_unknown_form_is_refused(form: str, dense: Path, tmp_path: Path) -> None:
    said = convert(dense, tmp_path / "port", form).refusal()
    assert f"no quantization is called '{form}'" in said
    assert "int4:64:asymmetric" in said
    assert list(tmp_path.iterdir()) == []


def test_blocks_that_fit_nothing_are_refused(llama: Path, tmp_path: Path) -> None:
    said = convert(llama, tmp_path / "port", "int4").refusal()
    assert "int4:128 fits no weight: their rows have 72, 100 numbers" in said
    assert list(tmp_path.iterdir()) == []


def test_a_weight_that_is_not_finite_is_refused(dense: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(dense, tmp_path / "source"))
    broken = tiny.load_file(source / "model.safetensors")[DOWN].clone()
    broken[5, 5] = float("inf")
    tiny.edit_tensors(source, add={DOWN: broken})
    assert f"'{DOWN}' holds what is not finite" in convert(source, tmp_path / "port", "int8").refusal()
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("value", ["int5", 4, ["int8"]])
def test_a_manifest_of_another_form_is_refused(value: object, copy: Path, dense: Path) -> None:
    (copy / "porter.json").write_text(json.dumps(manifest(copy) | {"quantize": value}))
    assert "damaged: quantize" in verify(copy, dense, "weights").refusal()


def test_going_on_with_another_form_is_refused(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pull_the_plug(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("porter.port.describe", pull_the_plug)
        assert convert(dense, tmp_path / "port", "int4:32").code == 130
    assert "has another quantize" in convert(dense, tmp_path / "port", "int8").refusal()
    assert convert(dense, tmp_path / "port", "int4:32").code == 0
