"""`--weights reference`: the graph points into the checkpoint's own shards, and only what must change is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch
from command import Outcome, digests, run

SHARD = "model.safetensors"


@pytest.fixture(params=["llama", "deepseek"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a checkpoint in float32, into which a port may go."""
    return Path(shutil.copytree(request.getfixturevalue(request.param), tmp_path / "checkpoint"))


def convert(checkpoint: Path, output: Path, *more: object) -> Outcome:
    target = [] if "--target" in more else ["--target", "onnxruntime-cpu"]
    return run("convert", checkpoint, *target, "-o", output, "--weights", "reference", "--json", *more)


def verify(port: Path, checkpoint: Path, level: str = "weights") -> Outcome:
    return run("verify", port, "--against", checkpoint, "--level", level, "--tokens", 2, "--json")


def manifest(port: Path) -> dict[str, Any]:
    found = json.loads((port / "porter.json").read_text())
    assert isinstance(found, dict)
    return found


def entry(port: Path, name: str = SHARD) -> dict[str, Any]:
    (found,) = [e for e in manifest(port)["weights"] if e["file"] == name]
    return dict(found)


def read_back(port: Path) -> dict[str, np.ndarray]:
    """Every weight of the graph, by its pointer alone."""
    graph = onnx.load(port / "model.onnx", load_external_data=False).graph
    found = {}
    for initializer in graph.initializer:
        if initializer.data_location == onnx.TensorProto.EXTERNAL:
            at = {e.key: e.value for e in initializer.external_data}
            data = (port / at["location"]).read_bytes()[int(at["offset"]) :][: int(at["length"])]
            found[initializer.name] = np.frombuffer(data, np.float32).reshape(list(initializer.dims))
    return found


# ------------------------------------------------------------------ in place


def test_a_port_in_the_checkpoints_own_folder(source: Path) -> None:
    before = digests(source)
    done = convert(source, source)
    assert done.code == 0, done.err
    after = digests(source)
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"model.onnx", "porter.json"} | {
        e["file"] for e in manifest(source)["weights"] if e.get("of") != "checkpoint"
    }
    assert manifest(source)["dtype"] == "float32"
    assert verify(source, source, "all").code == 0


def test_it_has_the_weights_that_a_copy_has(source: Path, tmp_path: Path) -> None:
    assert convert(source, source).code == 0
    assert run("convert", source, "--target", "onnxruntime-cpu", "-o", tmp_path / "copy").code == 0
    pointed, copied = read_back(source), read_back(tmp_path / "copy")
    assert pointed.keys() == copied.keys()
    for name, weight in copied.items():
        np.testing.assert_array_equal(pointed[name], weight, err_msg=name)


def test_only_what_must_change_is_written(source: Path) -> None:
    """Stacked experts, the halves of kv_b_proj, tables; a dense model has nothing of it but the tables."""
    convert(source, source)
    written = sum(e["bytes"] for e in manifest(source)["weights"] if e.get("of") != "checkpoint")
    if manifest(source)["family"] == "llama":
        assert written < 0.3 * (source / SHARD).stat().st_size
        tables = [name for name in read_back(source) if name.endswith(("cos", "sin"))]
        assert written < 2**12 + sum(read_back(source)[name].nbytes for name in tables)
    else:
        assert written < (source / SHARD).stat().st_size


def test_it_runs_on_onnx_runtime_alone(source: Path) -> None:
    convert(source, source)
    onnx.checker.check_model(source / "model.onnx", full_check=True)
    session = onnxruntime.InferenceSession(source / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].name == "logits"


def test_the_checkpoint_is_still_one(source: Path, tmp_path: Path) -> None:
    convert(source, source)
    assert run("inspect", source).code == 0
    assert run("convert", source, "--target", "onnxruntime-cpu", "-o", tmp_path / "copy").code == 0
    assert verify(tmp_path / "copy", source).code == 0


def test_a_checkpoint_of_one_file_of_any_name(llama: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(llama, tmp_path / "checkpoint"))
    (source / SHARD).rename(source / "consolidated.safetensors")
    assert convert(source, source).code == 0
    assert verify(source, source).code == 0
    assert convert(source, source, "--force").code == 0


def test_force_replaces_the_port_and_not_the_checkpoint(source: Path) -> None:
    before = digests(source)
    convert(source, source)
    first = digests(source)
    assert "--force replaces a port" in convert(source, source).refusal()
    (source / "compile.sh").write_text("not the port's own")
    assert convert(source, source, "--force").code == 0
    assert digests(source) == first | digests(source)
    assert (source / "compile.sh").read_text() == "not the port's own"
    assert before.items() <= digests(source).items()


def test_files_that_are_in_the_way(source: Path) -> None:
    (source / "model.onnx").write_text("an export by another tool")
    assert "has a 'model.onnx' already" in convert(source, source).refusal()
    assert "has a 'model.onnx' already" in convert(source, source, "--force").refusal()
    assert (source / "model.onnx").read_text() == "an export by another tool"


# ------------------------------------------------------------------ digests


def test_shards_are_digested_by_the_first_verify_or_when_asked(source: Path) -> None:
    before = digests(source)
    convert(source, source)
    assert entry(source)["sha256"] is None, "porter.json says that the digest was not taken"
    assert verify(source, source).code == 0
    assert entry(source)["sha256"] == before[SHARD]
    assert convert(source, source, "--force", "--digests").code == 0
    assert entry(source)["sha256"] == before[SHARD]


def test_a_shard_that_changes_later_is_found(source: Path) -> None:
    convert(source, source)
    verify(source, source)
    data = bytearray((source / SHARD).read_bytes())
    data[-1] ^= 1
    (source / SHARD).write_bytes(data)
    found = verify(source, source)
    assert found.code == 1
    assert SHARD in {c["detail"] for c in found.json()["levels"][0]["checks"] if c["value"]}


def test_a_pointer_astray_is_found(source: Path) -> None:
    convert(source, source)
    verify(source, source)
    model = onnx.load(source / "model.onnx", load_external_data=False)
    (norm,) = [i for i in model.graph.initializer if i.name == "model.norm.weight"]
    for e in norm.external_data:
        if e.key == "offset":
            e.value = str(int(e.value) + 4)
    (source / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    checks = verify(source, source).json()["levels"][0]["checks"]
    assert "model.norm.weight" in {c["name"]: c["detail"] for c in checks}["pointers astray"]


# ------------------------------------------------------------------ what cannot be


def test_elsewhere_it_is_a_clone_or_refused(source: Path, tmp_path: Path) -> None:
    """What the file system under the tests can do decides which."""
    done = convert(source, tmp_path / "port")
    if done.code == 0:
        assert verify(tmp_path / "port", source).code == 0
    else:
        assert "cannot share blocks" in done.refusal()
        assert "make the port in place (-o CHECKPOINT)" in done.refusal()
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("link", ["soft", "hard"])
def test_links_are_refused(link: str, source: Path, tmp_path: Path) -> None:
    (source / SHARD).rename(tmp_path / "elsewhere")
    if link == "soft":
        (source / SHARD).symlink_to(tmp_path / "elsewhere")
    else:
        os.link(tmp_path / "elsewhere", source / SHARD)
    assert f"'{SHARD}' is a {'symbolic' if link == 'soft' else 'hard'} link" in convert(source, source).refusal()


def test_a_dtype_that_the_front_end_does_not_take(tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample("llama"), dtype=torch.bfloat16)
    refusal = convert(source, source).refusal()
    assert "the checkpoint is in bfloat16, which onnxruntime does not take" in refusal
    assert "--weights copy" in refusal


def test_the_ports_dtype_is_the_checkpoints(tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample("llama"), dtype=torch.float16)
    assert convert(source, source).json()["dtype"] == "float16"
    assert verify(source, source, "all").code == 0


# ------------------------------------------------------------------ on a file system that clones


@pytest.fixture(params=["btrfs", "xfs"])
def cloning(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system in a file, of a kind whose files can share blocks."""
    kind, image, folder = request.param, tmp_path / "image", tmp_path / "disk"
    if os.geteuid() != 0 or shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"takes a root user and mkfs.{kind}")
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(400 * 2**20)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True, check=False).returncode:
        pytest.skip(f"{kind} in a file cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_port_of_clones(cloning: Path, source: Path) -> None:
    checkpoint = Path(shutil.copytree(source, cloning / "checkpoint"))
    before = digests(checkpoint)
    assert convert(checkpoint, cloning / "port").code == 0
    (shard,) = [e for e in manifest(cloning / "port")["weights"] if e["file"] == SHARD]
    assert shard["sha256"] is None
    assert (cloning / "port" / SHARD).stat().st_nlink == 1
    assert digests(cloning / "port")[SHARD] == before[SHARD]
    assert verify(cloning / "port", checkpoint, "all").code == 0
    (checkpoint / SHARD).unlink()
    assert digests(cloning / "port")[SHARD] == before[SHARD], "a file of its own"
