"""Bad input, through the command line: two lines, exit code 2, nothing left behind, nothing touched."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from command import digests, run

from porter.errors import CheckpointError
from porter.port import convert

Harm = Callable[[Path], object]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
FREE = namedtuple("FREE", "total used free")


@pytest.fixture
def source(llama: Path, tmp_path: Path) -> Path:
    """A copy of a sound checkpoint, to be harmed."""
    return Path(shutil.copytree(llama, tmp_path / "source"))


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in several shards with an index."""
    folder = tmp_path_factory.mktemp("sharded") / "checkpoint"
    return tiny.write_checkpoint(folder, tiny.sample("llama"), shard="60KB")


@pytest.fixture(autouse=True)
def untouched(tmp_path: Path) -> Iterator[None]:
    """Nothing but what a test made itself is there afterwards: no port, no part of one."""
    yield
    left = {path.name for path in tmp_path.rglob("*") if path.name.startswith(".") or path.name == "porter.json"}
    assert left - {"porter.json"} == set()
    assert not (tmp_path / "new").exists()


def refused(source: Path, *more: object, output: Path | None = None) -> str:
    """What `porter convert` says, having changed nothing."""
    output = output or source.parent / "new" / "port"
    before = digests(source.parent)
    given = (
        [source, "-o", output, *more]
        if "--target" in more
        else [source, "-o", output, "--target", "onnxruntime-cpu", *more]
    )
    refusal = run("convert", *given, "--json").refusal()
    assert digests(source.parent) == before
    return refusal


# ------------------------------------------------------------------ weights


def header_of(tensors: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + data


def cut(count: int) -> Harm:
    return lambda folder: (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:count])


def put(data: bytes, name: str = SINGLE) -> Harm:
    return lambda folder: (folder / name).write_bytes(data)


def overlap(folder: Path) -> None:
    """A tensor that begins four bytes early, within the one before it."""
    data = (folder / SINGLE).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header[UP]["data_offsets"] = [offset - 4 for offset in header[UP]["data_offsets"]]
    text = json.dumps(header, separators=(",", ":")).encode()
    (folder / SINGLE).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def drop(name: str) -> Harm:
    return lambda folder: tiny.edit_tensors(folder, drop=(name,))


def add(name: str, *shape: int) -> Harm:
    return lambda folder: tiny.edit_tensors(folder, add={name: torch.ones(shape)})


def leave_pickles_only(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")


MANY = {f"t{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(200_001)}
WEIGHTS: dict[str, tuple[Harm, str]] = {
    "no-weights": (lambda folder: (folder / SINGLE).unlink(), "no *.safetensors"),
    "empty-file": (put(b""), "is truncated: 0 bytes"),
    "cut-in-the-header": (cut(500), "is truncated: 500 bytes"),
    "cut-in-the-data": (cut(100_000), "is truncated: 100000 bytes"),
    "cut-by-one-byte": (lambda folder: cut((folder / SINGLE).stat().st_size - 1)(folder), "is truncated"),
    "overlapping": (overlap, "overlap"),
    "tensor-missing": (drop(UP), f"lacks tensor '{UP}'"),
    "tensor-extra": (add("model.layers.9.extra", 2), "'model.layers.9.extra', which nothing"),
    "tensor-of-another-shape": (add(UP, 72, 100), f"'{UP}' has shape [72, 100], but config.json asks for [100, 72]"),
    "tensor-of-another-rank": (add(NORM, 72, 1), f"'{NORM}' has shape [72, 1], but config.json asks for [72]"),
    "only-pickles": (leave_pickles_only, "pickles, which can run code when loaded: pytorch_model.bin"),
    "header-too-large": (put((16 * 2**20 + 1).to_bytes(8, "little") + b"{" + b" " * 99), "over 16 MiB"),
    "header-absurdly-large": (put(b"\xff" * 7 + b"\x7f{}"), "over 16 MiB"),
    "too-many-tensors": (put(header_of(MANY)), "has 200001 tensors, over 200000"),
    "header-not-json": (put(header_of({})[:8] + b"{]"), "not valid JSON"),
    "git-lfs-pointer": (put(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), "Git LFS pointer"),
    "integers": (lambda folder: tiny.edit_tensors(folder, add={UP: torch.ones(100, 72).int()}), UP),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name: str, source: Path) -> None:
    harm, says = WEIGHTS[name]
    harm(source)
    assert says in refused(source)


def test_a_pickle_renamed_is_not_run(source: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    program = (
        b"\x80\x02cos\nsystem\nX"
        + len(f"touch {canary}").to_bytes(4, "little")
        + f"touch {canary}".encode()
        + b"\x85R."
    )
    for name in (SINGLE, "pytorch_model.bin"):
        (source / name).write_bytes(program)
    assert "is a pickle renamed" in refused(source)
    assert not canary.exists()


def test_code_in_a_checkpoint_is_not_run(source: Path, tmp_path: Path) -> None:
    (source / "modeling_evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    change({"model_type": "evil", "auto_map": {"AutoConfig": "modeling_evil.Config"}})(source)
    assert "'evil' is not known" in refused(source)
    assert not (tmp_path / "canary").exists()


def edit_index(edit: Callable[[dict[str, str]], object]) -> Harm:
    def harm(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        edit(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return harm


SHARDS: dict[str, tuple[Harm, str]] = {
    "missing": (lambda folder: min(folder.glob("model-*")).unlink(), "1 of 9 shards are missing"),
    "missing-without-index": (
        lambda folder: [min(folder.glob("model-*")).unlink(), (folder / INDEX).unlink()], "1 of 9 shards are missing"
    ),
    "outside": (edit_index(lambda names: names.update({NORM: "../evil.safetensors"})), "points outside the folder"),
    "outside-by-an-absolute-path": (edit_index(lambda names: names.update({NORM: "/etc/passwd"})), "points outside"),
    "not-safetensors": (edit_index(lambda names: names.update({NORM: "config.json"})), "not a safetensors file"),
    "tensor-not-indexed": (edit_index(lambda names: names.pop(NORM)), f"'{NORM}' is in"),
    "tensor-not-there": (edit_index(lambda names: names.update({"more": max(names.values())})), "'more' is not in"),
    "index-not-json": (put(b"{", INDEX), f"{INDEX} is not valid JSON"),
    "index-empty": (put(b"{}", INDEX), "weight_map is not a table"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARDS)
def test_shards(name: str, sharded: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(sharded, tmp_path / "source"))
    harm, says = SHARDS[name]
    harm(source)
    assert says in refused(source)


# ------------------------------------------------------------------ config.json


def change(fields: dict[str, Any]) -> Harm:
    def harm(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return harm


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "a-billion-layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    "more-layers-than-there-are": ({"num_hidden_layers": 4096}, "lacks tensors 'model.layers.3."),
    "fewer-layers-than-there-are": ({"num_hidden_layers": 2}, "which nothing in this architecture reads"),
    "no-layers": ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    "negative-size": ({"hidden_size": -72}, "hidden_size is -72"),
    "negative-vocabulary": ({"vocab_size": -1}, "vocab_size is -1"),
    "heads-that-do-not-divide": ({"num_attention_heads": 7}, "num_attention_heads"),
    "groups-that-do-not-divide": ({"num_key_value_heads": 4}, "num_key_value_heads is 4, which does not divide"),
    "no-heads": ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    "text-for-a-number": ({"hidden_size": "72"}, "hidden_size is '72', not int"),
    "truth-for-a-number": ({"hidden_size": True}, "hidden_size is True, not int"),
    "fraction-for-a-number": ({"vocab_size": 101.5}, "vocab_size is 101.5, not int"),
    "huge-number": ({"hidden_size": 10**400}, "hidden_size is 1"),
    "negative-epsilon": ({"rms_norm_eps": -1e-5}, "rms_norm_eps is -1e-05"),
    "epsilon-over-float32": ({"rms_norm_eps": 1e200}, "rms_norm_eps is 1e+200"),
    "no-theta": ({"rope_theta": 0}, "rope_theta is 0"),
    "rope-of-another-kind": ({"rope_scaling": {"rope_type": "yarm"}}, "did you mean 'yarn'?"),
    "rope-without-factor": ({"rope_scaling": {"type": "linear"}}, "factor"),
    "rope-that-is-a-list": ({"rope_scaling": [1]}, "rope_scaling is [1], not dict"),
    "too-many-positions": ({"max_position_embeddings": 2**31 - 1}, "max_position_embeddings is 2147483647"),
    "another-activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "another-vocabulary": ({"vocab_size": 102}, "has shape [101, 72], but config.json asks for [102, 72]"),
    "another-head-size": ({"head_dim": 24}, "config.json asks for [144, 72]"),
    "biases-that-are-not-there": ({"attention_bias": True}, "lacks tensors 'model.layers.0.self_attn.q_proj.bias'"),
    "unknown-type": ({"model_type": "lama"}, "did you mean 'llama'? known: llama, "),
    "unknown-type-near-nothing": ({"model_type": "\u0000\u001b[31m"}, "known: deepseek_v2, deepseek_v3, "),
    "no-type": ({"model_type": None}, "model_type is not a string"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_nonsense_in_the_config(name: str, source: Path) -> None:
    fields, says = CONFIGS[name]
    change(fields)(source)
    refusal = refused(source)
    assert says in refusal
    assert "\x1b" not in refusal


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "not valid JSON"),
        (b"[1, 2]", "is not a JSON object"),
        (b'{"model_type": "llama", "model_type": "qwen2"}', "stands there twice"),
        (b'{"model_type": "llama", "hidden_size": NaN}', "not a finite number"),
        (b"\xff\xfe{", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": "' + b"x" * (4 << 20) + b'"}', "larger than 4 MiB"),
        (b"{}", "no model_type"),
    ],
)
def test_a_config_that_is_none(text: bytes, says: str, source: Path) -> None:
    (source / "config.json").write_bytes(text)
    assert says in refused(source)


def test_a_checkpoint_that_is_none(tmp_path: Path, source: Path) -> None:
    assert "cannot be opened" in refused(source / "nothing", output=tmp_path / "new")
    assert "cannot be opened" in refused(source / "config.json", output=tmp_path / "new")
    (source / "config.json").unlink()
    assert "config.json is missing" in refused(source)


EXPERTS: dict[str, tuple[dict[str, Any], str]] = {
    "groups": ({"n_group": 5}, "n_group is 5, which does not divide n_routed_experts = 12"),
    "more-groups-than-there-are": ({"topk_group": 5}, "topk_group is 5, more than n_group = 4"),
    "more-experts-than-there-are": ({"num_experts_per_tok": 13}, "num_experts_per_tok is 13"),
    "more-experts-than-in-the-groups": ({"num_experts_per_tok": 7}, "num_experts_per_tok is 7"),
    "a-million-experts": ({"n_routed_experts": 10**6}, "n_routed_experts is 1000000"),
    "another-count": ({"n_routed_experts": 16}, "lacks tensors 'model.layers.1.mlp.experts.12."),
    "an-odd-rotation": ({"qk_rope_head_dim": 7}, "7 rotated features"),
    "another-scoring": ({"scoring_func": "softmax"}, "scoring_func is 'softmax'"),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_nonsense_about_experts(name: str, deepseek: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(deepseek, tmp_path / "source"))
    fields, says = EXPERTS[name]
    change(fields)(source)
    assert says in refused(source)


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--target", "ascend-910x"], "did you mean 'ascend-910c'? known: ascend-910c, ascend-910b, "),
        (["--target", ""], "no target is called ''"),
        (["--target", "../ascend-910b"], "../ascend-910b: No such file"),
        (["--target", "nvidia-h100"], "nvidia-h100 has no front end"),
        (["--target", "ascend-310p3", "--dtype", "bfloat16"], "cann-atc-310p takes no port in bfloat16"),
        (["--target", "moore-threads-s80", "--dtype", "bfloat16"], "moore-threads-s80 takes no port in bfloat16"),
        (["--target", "sophgo-bm1684x"], "tpu-mlir takes graphs of fixed sizes only"),
        (["--target", "ascend-910b", "--frontend", "cann"], "no front end is called 'cann'"),
        (["--target", "ascend-910b", "--frontend", "onnxruntime"], "does not feed ascend-910b"),
        (["--dtype", "bfloat16"], "takes no port in bfloat16"),
        (["--attention", "absorbed"], "llama has no absorbed form"),
    ],
)
def test_options_that_do_not_fit(options: list[str], says: str, source: Path) -> None:
    assert says in refused(source, *options)


def test_an_unknown_target_is_refused_when_asked_about() -> None:
    assert "no target is called 'ascend'" in run("targets", "ascend", "--json").refusal()


def test_a_weight_that_the_dtype_cannot_hold(source: Path) -> None:
    tiny.edit_tensors(source, add={NORM: torch.full((72,), 1e6)})
    refusal = refused(source, "--dtype", "float16")
    assert f"'{NORM}' holds 1e+06, which float16 cannot" in refusal
    assert "--dtype float32" in refusal


# ------------------------------------------------------------------ the output


def test_an_output_that_exists(source: Path, tmp_path: Path) -> None:
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("not even a folder")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "full", "file", "link", "dangling"):
        assert "exists" in refused(source, output=tmp_path / name)
        assert "is not a port" in refused(source, "--force", output=tmp_path / name)


def test_a_port_that_exists(source: Path, tmp_path: Path) -> None:
    convert(source, "onnxruntime-cpu", tmp_path / "port")
    refusal = refused(source, output=tmp_path / "port")
    assert "exists" in refusal
    assert "--force" in refusal


def test_a_link_to_a_port_is_not_replaced(source: Path, tmp_path: Path) -> None:
    convert(source, "onnxruntime-cpu", tmp_path / "port")
    (tmp_path / "link").symlink_to(tmp_path / "port")
    assert "is not a port" in refused(source, "--force", output=tmp_path / "link")


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_an_output_inside_the_checkpoint(force: list[str], source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    for output in (
        source,
        source / "port",
        source / "a" / "b",
        tmp_path,
        tmp_path / "link" / "port",
        source / ".." / "source",
    ):
        assert "lie in one another" in refused(source, *force, output=output)


def test_an_output_below_a_file(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refused(source, output=tmp_path / "file" / "port")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_that_may_not_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "cannot be" in refused(source, output=tmp_path / "closed" / "port")


def test_a_disk_without_room(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: FREE(10**9, 10**9 - 10**6, 10**6))
    assert "has 1 MB free" in refused(source)


@pytest.mark.parametrize("room", [0, 1000])
def test_a_disk_that_fills_before_anything_is_finished(
    room: int, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", tight(room))
    refusal = refused(source)
    assert "No space left on device" in refusal
    assert "make room" in refusal


def test_a_disk_that_fills_half_way(
    source: Path, llama_port: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written waits: with more room the same command goes on, and ends with the same bytes."""
    command = ["convert", source, "--target", "onnxruntime-cpu", "-o", tmp_path / "new" / "port", "--json"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", tight(200_000))
        refusal = run(*command).refusal()
    assert "No space left on device" in refusal
    assert "make room or choose another folder, and run the same command again" in refusal
    assert not (tmp_path / "new" / "port").exists()
    assert run(*command).code == 0
    assert digests(tmp_path / "new") == {f"port/{name}": digest for name, digest in digests(llama_port).items()}
    shutil.rmtree(tmp_path / "new")


def tight(room: int) -> Callable[[int, memoryview, int], int]:
    """A `pwrite` to a disk with so many bytes left: the last write is cut short, the next is refused."""
    left, pwrite = room, os.pwrite

    def write(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = pwrite(descriptor, data[:left], offset)
        left -= count
        return count

    return write


def test_a_checkpoint_that_shrinks_while_it_is_read(
    source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from porter import order

    plan = order.plan_files

    def and_cut(*given: Any) -> Any:
        cut(50_000)(source)
        return plan(*given)

    monkeypatch.setattr(order, "plan_files", and_cut)
    with pytest.raises(CheckpointError, match="was cut"):  # not by `run`, which lets nobody change a checkpoint
        convert(source, "onnxruntime-cpu", tmp_path / "new" / "port")


# ------------------------------------------------------------------ ports


@pytest.fixture
def port(llama_port: Path, tmp_path: Path) -> Path:
    """A copy of a sound port, to be harmed."""
    return Path(shutil.copytree(llama_port, tmp_path / "port"))


def manifest(edit: Callable[[dict[str, Any]], object]) -> Harm:
    def harm(port: Path) -> None:
        document = json.loads((port / "porter.json").read_text())
        edit(document)
        (port / "porter.json").write_text(json.dumps(document))

    return harm


PORTS: dict[str, tuple[Harm, str]] = {
    "no-manifest": (lambda port: (port / "porter.json").unlink(), ""),
    "cut": (lambda port: put((port / "porter.json").read_bytes()[:700], "porter.json")(port), "cannot be read"),
    "empty": (put(b"", "porter.json"), "cannot be read"),
    "a-list": (put(b"[]", "porter.json"), "cannot be read"),
    "not-text": (put(b"\xff\xfe\x00", "porter.json"), "cannot be read"),
    "nested": (put(b"[" * 100_000, "porter.json"), "cannot be read"),
    "of-another-schema": (manifest(lambda m: m.update(schema_version=2)), "has schema_version 2"),
    "without-a-graph": (manifest(lambda m: m.update(graphs=[])), "graphs is missing"),
    "without-a-digest": (manifest(lambda m: m["weights"][0].pop("sha256")), "weights[0].sha256 is missing"),
    "without-a-family": (manifest(lambda m: m.pop("family")), "family is missing"),
    "of-an-unknown-dtype": (manifest(lambda m: m.update(dtype="float8")), "dtype is missing or makes no sense"),
    "with-a-path": (manifest(lambda m: m["files"][0].update(file="../source/config.json")), "lacks '../source/config"),
    "without-its-weights": (lambda port: next(port.glob("weights-*")).unlink(), "lacks 'weights-00001"),
    "without-its-graph": (lambda port: (port / "model.onnx").unlink(), "lacks 'model.onnx'"),
}


@pytest.mark.parametrize("name", PORTS)
def test_a_port_that_cannot_be_read(name: str, port: Path, source: Path) -> None:
    harm, says = PORTS[name]
    harm(port)
    before = digests(port)
    commands: list[list[object]] = [["verify", port, "--against", source], ["inspect", port]]
    for command in commands[: 1 if name == "no-manifest" else 2]:
        assert says in run(*command, "--json").refusal()
    assert digests(port) == before


@pytest.mark.parametrize("path", ["nothing", "source"])
def test_what_is_no_port(path: str, source: Path, tmp_path: Path) -> None:
    refusal = run("verify", tmp_path / path, "--against", source, "--json").refusal()
    assert "is not a port: it has no porter.json" in refusal


@pytest.mark.parametrize("level", ["weights", "semantics", "all"])
def test_a_checkpoint_that_the_port_is_not_of(level: str, port: Path, deepseek: Path, tmp_path: Path) -> None:
    def against(checkpoint: Path) -> str:
        return run("verify", port, "--against", checkpoint, "--level", level, "--json").refusal()

    assert "the port has family llama, the checkpoint deepseek_v3" in against(deepseek)
    changes: dict[str, dict[str, Any]] = {
        "layers 3, the checkpoint 2": {"num_hidden_layers": 2, "intermediate_size": 168},
        "parameters": {"intermediate_size": 64},
        "cache width 48, the checkpoint 24": {"num_key_value_heads": 1, "intermediate_size": 108},
    }
    for n, (says, fields) in enumerate(changes.items()):
        other = tiny.write_checkpoint(tmp_path / f"other{n}", tiny.sample("llama", **fields))
        refusal = against(other)
        assert says in refusal or "the port has parameters" in refusal
        assert "the checkpoint that the port was made from" in refusal


@pytest.mark.parametrize("name", ["tensor-missing", "cut-in-the-data", "only-pickles"])
def test_verify_against_a_broken_checkpoint(name: str, port: Path, source: Path) -> None:
    harm, says = WEIGHTS[name]
    harm(source)
    for level in ("weights", "semantics"):
        assert says in run("verify", port, "--against", source, "--level", level, "--json").refusal()
