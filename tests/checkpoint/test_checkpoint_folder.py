"""A checkpoint folder: opened lazily, read exactly, and refused where it does not hold together."""

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from porter.checkpoint import Checkpoint, open_checkpoint, write_header
from porter.errors import CheckpointError

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDS = {FIRST: {"a": np.arange(4.0), "b": np.ones((2, 3), np.int8)}, SECOND: {"c": np.array(5, np.int64)}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder that holds only a config.json so far."""
    (tmp_path / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": true}')
    return tmp_path


@pytest.fixture
def sharded(folder: Path) -> Path:
    """Make a sound checkpoint of two shards and an index."""
    for name, tensors in SHARDS.items():
        save_file(tensors, folder / name)
    write_index(folder, {tensor: name for name, tensors in SHARDS.items() for tensor in tensors})
    return folder


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def refusal(folder: str | Path) -> str:
    """Return what open_checkpoint says, which must be one line with a way out."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert caught.value.message.isprintable()
    assert caught.value.hint
    return caught.value.message


def test_sharded(sharded: Path) -> None:
    checkpoint = open_checkpoint(str(sharded))
    assert checkpoint.config["model_type"] == "llama"
    assert checkpoint.files == (sharded / FIRST, sharded / SECOND)
    assert list(checkpoint.tensors) == ["a", "b", "c"]
    for tensors in SHARDS.values():
        for name, expected in tensors.items():
            np.testing.assert_array_equal(checkpoint.read(name), expected, strict=True)


def test_no_index_but_a_full_set(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    save_file({"z": np.zeros(1)}, sharded / "consolidated.safetensors")
    assert open_checkpoint(sharded).files == (sharded / FIRST, sharded / SECOND)


@pytest.mark.parametrize("name", ["model.safetensors", "weights.safetensors"])
def test_single(folder: Path, name: str) -> None:
    save_file({"w": np.zeros((2, 2), np.float32)}, folder / name)
    (folder / "training_args.bin").write_bytes(b"\x80\x02never opened")
    (folder / "._model.safetensors").write_bytes(b"what macOS leaves behind")
    assert open_checkpoint(folder).files == (folder / name,)


def test_index_of_a_single_file(folder: Path) -> None:
    save_file({"w": np.zeros(2)}, folder / "model.safetensors")
    write_index(folder, {"w": "model.safetensors"})
    assert list(open_checkpoint(folder).tensors) == ["w"]


@pytest.mark.parametrize(
    ("spelling", "dtype"),
    [
        ("BF16", ml_dtypes.bfloat16),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn),
        ("F8_E5M2", ml_dtypes.float8_e5m2),
        ("F16", np.float16),
    ],
)
def test_narrow_floats(folder: Path, spelling: str, dtype: type) -> None:
    expected = np.array([[1, -2, 0.5], [0.25, 448, 0]]).astype(dtype)
    header = write_header([("odd", "U8", (1,)), ("w", spelling, (2, 3))])  # so that w is not aligned
    (folder / "model.safetensors").write_bytes(header + b"\0" + expected.tobytes())
    checkpoint = open_checkpoint(folder)
    np.testing.assert_array_equal(checkpoint.read("w"), expected, strict=True)
    assert checkpoint.dtype == spelling


def test_dtype_is_the_floating_one_with_most_bytes(folder: Path) -> None:
    tensors = {"ids": np.zeros(99), "norm": np.zeros(9, np.float32), "w": np.zeros((5, 4), np.float16)}
    save_file(tensors | {"ids": np.zeros(99, np.int64)}, folder / "model.safetensors")
    assert open_checkpoint(folder).dtype == "F16"


def test_dtype_without_floats(folder: Path) -> None:
    save_file({"ids": np.zeros(3, np.int64)}, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    with pytest.raises(CheckpointError, match="no tensor is floating-point"):
        _ = checkpoint.dtype


def test_scalar_and_empty(folder: Path) -> None:
    save_file({"s": np.array(3, np.float32), "e": np.zeros((0, 4), np.float32)}, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.read("s") == 3
    assert checkpoint.read("e").shape == (0, 4)


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (1, 3), (2, 2), (3, 9)])
def test_rows_of_a_tensor(sharded: Path, start: int, stop: int) -> None:
    checkpoint = open_checkpoint(sharded)
    np.testing.assert_array_equal(checkpoint.read("a", start, stop), checkpoint.read("a")[start:stop], strict=True)


def test_only_the_rows_asked_for_are_read(folder: Path) -> None:
    rows = 50 * 2**30 // 4096  # 50 GB in all
    path = folder / "model.safetensors"
    path.write_bytes(write_header([("w", "F32", (rows, 1024))]))
    os.truncate(path, path.stat().st_size + 4096 * rows)
    last = open_checkpoint(folder).read("w", rows - 2, rows)
    assert last.shape == (2, 1024)
    assert not last.any()


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (0, 1), (2, 5), (6, 7), (3, 3)])
@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (0, 7)])
def test_columns_of_a_matrix(folder: Path, shape: tuple[int, int], start: int, stop: int) -> None:
    matrix = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    save_file({"before": np.ones(3, np.int8), "m": matrix, "n": matrix}, folder / "model.safetensors")
    read = open_checkpoint(folder).read("m", start, stop, axis=1)
    np.testing.assert_array_equal(read, matrix[:, start:stop], strict=True)


def test_columns_of_a_matrix_that_was_cut(folder: Path) -> None:
    save_file({"m": np.ones((4, 6))}, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 8)
    checkpoint.read("m", 0, 5, axis=1)
    with pytest.raises(CheckpointError, match="was cut within or before tensor 'm'"):
        checkpoint.read("m", 4, 6, axis=1)


def test_unknown_tensor_lists_those_near(folder: Path) -> None:
    names = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(100)]
    save_file({name: np.zeros(1) for name in names}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="has no tensor 'model") as caught:
        open_checkpoint(folder).read("model.layers.7.mlp.up_prj.weight")
    assert caught.value.hint.startswith("did you mean 'model.layers.7.mlp.up_proj.weight'?")
    assert len(caught.value.hint) < 1000


@pytest.mark.parametrize("size", [0, 100])
@pytest.mark.parametrize("touched", [False, True])
def test_cut_while_open(sharded: Path, size: int, touched: bool) -> None:
    checkpoint = open_checkpoint(sharded)
    if touched:
        checkpoint.read("b")
    os.truncate(sharded / FIRST, size)
    with pytest.raises(CheckpointError, match="was cut"):
        checkpoint.read("a")


def test_gone_while_open(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    (sharded / FIRST).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        checkpoint.read("a")


def test_hugging_face_cache(tmp_path: Path, sharded: Path) -> None:
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    for n, path in enumerate([sharded / "config.json", sharded / INDEX, sharded / FIRST, sharded / SECOND]):
        path.rename(tmp_path / f"blob{n}")
        (snapshot / path.name).symlink_to(f"../../blob{n}")
    checkpoint = open_checkpoint(snapshot)
    assert checkpoint.files == (snapshot / FIRST, snapshot / SECOND)
    assert checkpoint.read("c") == 5


def test_carried_files(sharded: Path) -> None:
    carried = ["config.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"]
    for name in [*carried[1:], "README.md", "modeling_evil.py", "tokenizer.py"]:
        (sharded / name).touch()
    (sharded / "vocab.json").mkdir()
    (sharded / "tokenizer.model").symlink_to("/dev/zero")
    assert [path.name for path in open_checkpoint(sharded).carried_files()] == carried


def test_code_in_a_checkpoint_is_not_run(sharded: Path) -> None:
    config = {"model_type": "x", "auto_map": {"AutoModel": "modeling_evil.Evil"}, "trust_remote_code": True}
    (sharded / "config.json").write_text(json.dumps(config))
    (sharded / "modeling_evil.py").write_text("open('canary', 'w')")
    assert isinstance(open_checkpoint(sharded), Checkpoint)
    assert "modeling_evil" not in sys.modules
    assert not list(sharded.glob("canary"))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl"])
def test_pickles(folder: Path, suffix: str) -> None:
    (folder / f"pytorch_model{suffix}").write_bytes(pickle.dumps([1]))
    (folder / f"pytorch_model{suffix}").chmod(0)
    message = refusal(folder)
    assert f"pickles, which can run code when loaded: pytorch_model{suffix}" in message


def test_pickle_renamed(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps([1]))
    assert "model.safetensors is a pickle renamed" in refusal(folder)


def test_no_weights(folder: Path) -> None:
    assert "no *.safetensors" in refusal(folder)


def test_no_tensors(folder: Path) -> None:
    save_file({}, folder / "model.safetensors")
    assert "hold no tensor" in refusal(folder)


def test_several_files_of_which_none_is_the_model(folder: Path) -> None:
    for name in ["one.safetensors", "two.safetensors"]:
        save_file({name: np.zeros(1)}, folder / name)
    assert "no index: one.safetensors, two.safetensors" in refusal(folder)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ["model-00002-of-00003.safetensors"],
            "2 of 3 shards are missing: model-00001-of-00003.safetensors, ",
        ),
        (["model-00001-of-00002.safetensors", "model-00001-of-00003.safetensors"], "not of one set"),
        (["model-00003-of-00002.safetensors"], "not of one set"),
        (["model-1-of-000000.safetensors"], "not of one set"),
        (["model-1-of-50000.safetensors"], "49999 of 50000 shards are missing"),
    ],
)
def test_numbered_without_index(folder: Path, names: list[str], says: str) -> None:
    for name in names:
        save_file({name: np.zeros(1)}, folder / name)
    assert says in refusal(folder)


def test_missing_shard(sharded: Path) -> None:
    (sharded / FIRST).unlink()
    assert f"1 of 2 shards are missing (2 tensors): {FIRST}" in refusal(sharded)


def test_broken_link_to_a_shard(sharded: Path) -> None:
    (sharded / FIRST).unlink()
    (sharded / FIRST).symlink_to("nowhere")
    assert f"{FIRST} is a link to a file that is not there" in refusal(sharded)


@pytest.mark.parametrize("name", ["../evil.safetensors", "/evil.safetensors", "sub/x.safetensors", "..", "a\\b"])
def test_index_points_outside(sharded: Path, name: str) -> None:
    write_index(sharded, {"a": name})
    assert "tensor 'a': the index points outside the folder" in refusal(sharded)


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        (None, "weight_map is not a table"),
        ({}, "weight_map is not a table"),
        ([FIRST], "weight_map is not a table"),
        ({"a": 1}, "tensor 'a' has no file name"),
        ({"a": ""}, "is not a safetensors file"),
        ({"a": "pytorch_model.bin"}, "is not a safetensors file"),
        ({"a": "\x1b[31m\0.safetensors"}, r"'\x1b[31m\x00.safetensors', which is not a safetensors file"),
        ({"a": FIRST}, "tensor 'b' is in model-00001-of-00002.safetensors but not in the index"),
        ({"a": FIRST, "b": FIRST, "d\n": FIRST}, r"tensor 'd\n' is not in model-00001-of-00002.safetensors"),
        ({"a": FIRST, "b": SECOND, "c": SECOND}, "tensor 'b' is not in model-00002-of-00002.safetensors"),
    ],
)
def test_index_that_does_not_fit(sharded: Path, weight_map: object, says: str) -> None:
    write_index(sharded, weight_map)
    assert says in refusal(sharded)


def test_index_with_a_tensor_twice(sharded: Path) -> None:
    (sharded / INDEX).write_text(f'{{"weight_map": {{"a": "{FIRST}", "a": "{SECOND}"}}}}')
    assert "the key 'a' stands there twice" in refusal(sharded)


def test_tensor_in_two_shards(sharded: Path) -> None:
    save_file(SHARDS[SECOND] | {"a": np.zeros(1)}, sharded / SECOND)
    assert f"tensor 'a' is in both {FIRST} and {SECOND}" in refusal(sharded)


def test_single_file_beside_an_index_of_others(sharded: Path) -> None:
    save_file({"w": np.zeros(1)}, sharded / "model.safetensors")
    assert "both model.safetensors and an index" in refusal(sharded)


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink(path, path)],
)
@pytest.mark.parametrize("name", [FIRST, INDEX, "config.json"])
def test_what_is_no_regular_file(sharded: Path, name: str, make: Callable[[Path], None]) -> None:
    (sharded / name).unlink()
    make(sharded / name)
    assert name in refusal(sharded)


@pytest.mark.parametrize("name", ["nowhere", "config.json", "x" * 5000, "zero\0byte", "\x1b[31m"])
def test_what_is_no_folder(folder: Path, name: str) -> None:
    assert "cannot be opened" in refusal(folder / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["", "config.json", INDEX, FIRST])
def test_no_permission(sharded: Path, name: str) -> None:
    (sharded / name).chmod(0)
    message = refusal(sharded)
    (sharded / name).chmod(0o700)
    assert "Permission denied" in message


def test_opening_changes_nothing(sharded: Path) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sharded.iterdir()}
    open_checkpoint(sharded).read("a").sum()
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sharded.iterdir()}
