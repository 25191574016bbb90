"""verify walks through graphs of fixed sizes as through a growing one, and finds what is wrong in any of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from command import run
from onnx import GraphProto
from surgery import constants, graph_of, set_value

from porter.port import convert


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a window of 7 places."""
    folder = tmp_path_factory.mktemp("mistral")
    return tiny.write_checkpoint(folder, tiny.sample("mistral", sliding_window=7))


def verdict(port: Path, checkpoint: Path, *options: object) -> dict[str, object]:
    found = run("verify", port, "--against", checkpoint, "--level", "semantics", "--tokens", 4, "--json", *options)
    document = found.json()
    assert found.code == {"pass": 0, "fail": 1, "inconclusive": 3}[document["status"]]
    return document


def names(document: dict[str, object]) -> set[str]:
    """The scenarios that were walked through."""
    levels = document["levels"]
    assert isinstance(levels, list)
    return {check["name"].partition(":")[0] for level in levels for check in level["checks"]}


@pytest.mark.parametrize("shape", ["sequence=8,context=64", "sequence=1,context=64", "batch=2,sequence=5,context=64"])
def test_a_sound_port_passes(shape: str, deepseek: Path, tmp_path: Path) -> None:
    convert(deepseek, "onnxruntime-cpu", tmp_path / "port", shape=shape)
    document = verdict(tmp_path / "port", deepseek)
    assert document["status"] == "pass", document
    assert {"prefill", "faint", "decode", "chunked", "padded"} <= names(document)


def test_every_level_runs_on_fixed_sizes_in_a_narrow_dtype(llama: Path, tmp_path: Path) -> None:
    convert(llama, "moore-threads-s4000", tmp_path / "port", shape="sequence=8,context=64", dtype="bfloat16")
    found = run("verify", tmp_path / "port", "--against", llama, "--json").json()
    assert [level["name"] for level in found["levels"]] == ["weights", "semantics", "dtype", "distribution"]
    assert found["status"] == "pass", found


def test_each_of_several_sizes_is_walked_through(llama: Path, tmp_path: Path) -> None:
    convert(llama, "onnxruntime-cpu", tmp_path / "port", shape="sequence=8/16,context=48/64")
    document = verdict(tmp_path / "port", llama)
    assert document["status"] == "pass"
    assert {"8 of 48", "8 of 64", "16 of 48", "16 of 64"} <= names(document)


def test_gears_are_one_graph_at_several_sizes(llama: Path, tmp_path: Path) -> None:
    result = convert(llama, "ascend-910b", tmp_path / "port", shape="sequence=8/16,context=48/64")
    assert [graph["file"] for graph in result["graphs"]] == ["prefill.onnx", "decode.onnx"]
    prefill, decode = json.loads((tmp_path / "port" / "porter.json").read_text())["graphs"]
    assert prefill["gears"] == [{"sequence": s, "context": c} for s in (8, 16) for c in (48, 64)]
    assert decode["gears"] == [{"context": 48}, {"context": 64}]
    document = verdict(tmp_path / "port", llama)
    assert document["status"] == "pass"
    assert {"8 of 48", "16 of 64"} <= names(document)


def test_a_window_is_left_where_places_are_positions(mistral: Path, tmp_path: Path) -> None:
    convert(mistral, "onnxruntime-cpu", tmp_path / "port", shape="sequence=8,context=64")
    document = verdict(tmp_path / "port", mistral)
    assert document["status"] == "pass", document
    assert "window of 7" in names(document)


def test_a_window_that_is_off_by_one_is_found(mistral: Path, tmp_path: Path) -> None:
    convert(mistral, "onnxruntime-cpu", tmp_path / "port", shape="sequence=8,context=64")
    for file in ("prefill.onnx", "decode.onnx"):
        with graph_of(tmp_path / "port", file) as graph:
            (window,) = constants(graph, "const.int64.scalar.7")
            set_value(window, np.array(8))
    assert verdict(tmp_path / "port", mistral)["status"] == "fail"


def another_epsilon(graph: GraphProto) -> None:
    for epsilon in constants(graph, "const.float.scalar.1e-06"):
        set_value(epsilon, np.array(1e-5))


def places_one_off(graph: GraphProto) -> None:
    """What follows from the places, mask and cache alike, is shifted."""
    for places in constants(graph, "const.int64.64."):
        set_value(places, np.arange(1, 65))


@pytest.mark.parametrize("file", ["prefill.onnx", "decode.onnx"])
@pytest.mark.parametrize("plant", [another_epsilon, places_one_off])
def test_a_mistake_in_one_of_the_graphs_is_found(
    plant: Callable[[GraphProto], None], file: str, deepseek: Path, tmp_path: Path
) -> None:
    convert(deepseek, "onnxruntime-cpu", tmp_path / "port", shape="sequence=8,context=64")
    with graph_of(tmp_path / "port", file) as graph:
        plant(graph)
    assert verdict(tmp_path / "port", deepseek)["status"] == "fail"


def test_what_a_cache_ends_before_is_told(deepseek: Path, tmp_path: Path) -> None:
    convert(deepseek, "onnxruntime-cpu", tmp_path / "port", shape="sequence=8,context=20")
    document = verdict(tmp_path / "port", deepseek)
    assert document["status"] == "pass"
    notes = document["notes"]
    assert isinstance(notes, list)
    assert any(note.startswith("the cache has 20 places: position ") for note in notes)
    refusal = run("verify", tmp_path / "port", "--against", deepseek, "--tokens", 17, "--json").refusal()
    assert "17 tokens behind a prompt do not fit into the 20 positions" in refusal


def test_a_context_beyond_the_model_s_positions_is_refused(deepseek: Path, tmp_path: Path) -> None:
    arguments = ["convert", deepseek, "--target", "onnxruntime-cpu", "-o", tmp_path / "port"]
    refusal = run(*arguments, "--shape", "context=100000", "--json").refusal()
    assert "context 100000 is more than the" in refusal
    assert not (tmp_path / "port").exists()
