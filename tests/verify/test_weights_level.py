"""Bytes against bytes: whatever is changed in a port is found, named, and never a crash."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import Outcome, run
from surgery import WEIGHTS, flip, graph_of, header, weight_of

KEY = "model.layers.1.self_attn.kv_b_proj_key"
CHECKS = [
    "files changed",
    "pointers astray",
    "weights missing or extra",
    "weights unlike their source",
    "source ranges changed",
]


@pytest.fixture
def copy(deepseek_port: Path, tmp_path: Path) -> Path:
    """A copy of a sound port."""
    return Path(shutil.copytree(deepseek_port, tmp_path / "port"))


def verify(port: Path, checkpoint: Path, level: str = "weights") -> Outcome:
    return run("verify", port, "--against", checkpoint, "--level", level, "--tokens", 2, "--json")


def failures(found: Outcome) -> dict[str, str]:
    """What the checks that failed say, by their names."""
    assert found.code == 1, found
    document = found.json()
    assert (document["passed"], document["status"]) == (False, "fail")
    checks: list[dict[str, Any]] = [check for level in document["levels"] for check in level["checks"]]
    return {check["name"]: check["detail"] for check in checks if check["status"] == "fail"}


def test_a_sound_port_passes(copy: Path, deepseek: Path) -> None:
    found = verify(copy, deepseek)
    (level,) = found.json()["levels"]
    assert (found.code, level["name"], level["status"]) == (0, "weights", "pass")
    assert [(c["name"], c["value"]) for c in level["checks"]] == [(name, 0) for name in CHECKS]


@pytest.mark.parametrize("where", ["first", "last", 1, 2, 3, 4, 5, 6])
def test_one_bit_of_a_weight_names_it(where: str | int, copy: Path, deepseek: Path) -> None:
    entries, size = header(copy), (copy / WEIGHTS).stat().st_size
    start = size - max(entry["data_offsets"][1] for entry in entries.values())
    chance = random.Random(where)
    byte = {"first": start, "last": size - 1}.get(str(where), chance.randrange(start, size))
    flip(copy / WEIGHTS, byte, chance.randrange(8))
    (name,) = [n for n, e in entries.items() if e["data_offsets"][0] <= byte - start < e["data_offsets"][1]]
    assert failures(verify(copy, deepseek)) == {CHECKS[0]: WEIGHTS, CHECKS[3]: name}


def test_a_weight_that_is_not_a_number_fails_on_every_level(copy: Path, deepseek: Path) -> None:
    with weight_of(copy, KEY) as weight:
        weight[0, 0, 0] = np.nan
    found = failures(verify(copy, deepseek, "all"))
    assert found.pop(CHECKS[3]) == KEY
    assert "prefill: logits" in found


@pytest.mark.parametrize("byte", [0, 1, 7, 8, 9, 40, 300, 999])
def test_one_bit_of_the_header_is_found(byte: int, copy: Path, deepseek: Path) -> None:
    flip(copy / WEIGHTS, byte)
    assert CHECKS[0] in failures(verify(copy, deepseek, "all"))


@pytest.mark.parametrize("seed", range(12))
def test_one_bit_of_the_graph_is_found(seed: int, copy: Path, deepseek: Path) -> None:
    chance, graph = random.Random(seed), copy / "model.onnx"
    flip(graph, chance.randrange(graph.stat().st_size), chance.randrange(8))
    assert "model.onnx" in failures(verify(copy, deepseek, "all"))[CHECKS[0]]


@pytest.mark.parametrize("level", ["weights", "semantics", "all"])
@pytest.mark.parametrize("name", ["model.onnx", WEIGHTS])
@pytest.mark.parametrize("keep", [0, 5, 500])
def test_a_file_that_was_cut_is_found(level: str, name: str, keep: int, copy: Path, deepseek: Path) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:keep])
    assert failures(verify(copy, deepseek, level))


def test_a_carried_file_that_was_changed_is_found(copy: Path, deepseek: Path) -> None:
    flip(copy / "config.json", 20)
    assert failures(verify(copy, deepseek)) == {CHECKS[0]: "config.json"}


# ------------------------------------------------------------------ signed again: no digest gives it away


def pointer(graph: onnx.GraphProto, name: str) -> dict[str, onnx.StringStringEntryProto]:
    (tensor,) = [t for t in graph.initializer if t.name == name]
    return {entry.key: entry for entry in tensor.external_data}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("offset", "0"),
        ("offset", "+64"),
        ("offset", "-4"),
        ("length", "+4"),
        ("location", "../other"),
        ("location", "config.json"),
    ],
)
@pytest.mark.parametrize("level", ["weights", "semantics"])
def test_a_pointer_that_was_moved_is_found(key: str, value: str, level: str, copy: Path, deepseek: Path) -> None:
    with graph_of(copy) as graph:
        entry = pointer(graph, KEY)[key]
        entry.value = str(int(entry.value) + int(value)) if value[0] in "+-" else value
    assert any(KEY in detail for detail in failures(verify(copy, deepseek, level)).values())


def test_two_weights_that_change_places_are_found(copy: Path, deepseek: Path) -> None:
    """Each points at a tensor of its own type and shape, but not its own."""
    other = KEY.replace("1", "2")
    with graph_of(copy) as graph:
        one, two = pointer(graph, KEY)["offset"], pointer(graph, other)["offset"]
        one.value, two.value = two.value, one.value
    assert failures(verify(copy, deepseek)) == {CHECKS[1]: f"{KEY}, {other}"}


def test_a_weight_that_the_graph_has_not_is_found(copy: Path, deepseek: Path) -> None:
    with graph_of(copy) as graph:
        (tensor,) = [t for t in graph.initializer if t.name == KEY]
        tensor.name = "another"
    found = failures(verify(copy, deepseek))
    assert found == {CHECKS[1]: "another", CHECKS[2]: f"another, {KEY}"}


def test_a_weight_inside_the_graph_is_found(copy: Path, deepseek: Path) -> None:
    with graph_of(copy) as graph, weight_of(copy, KEY) as weight:
        (tensor,) = [t for t in graph.initializer if t.name == KEY]
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.raw_data = (weight * 1.01).tobytes()
    assert failures(verify(copy, deepseek)) == {CHECKS[2]: KEY}
    assert "prefill: logits" in failures(verify(copy, deepseek, "semantics"))


def test_a_graph_that_does_not_run_fails(copy: Path, deepseek: Path) -> None:
    with graph_of(copy) as graph:
        graph.node[0].input[1] = "attention_mask"  # in place of input_ids: of another length
        for node in graph.node[:1]:
            node.op_type = "Gathers"
    (detail,) = failures(verify(copy, deepseek, "semantics")).values()
    assert "ONNX Runtime does not load" in detail
