"""The safetensors header: what is taken, what is refused and in which words, and what is written."""

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from porter.checkpoint import DTYPES, TensorInfo, parse_header, write_header
from porter.errors import CheckpointError

A = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
B = {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}


def put(folder: Path, header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> Path:
    """Write a safetensors file, however wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def refusal(path: Path) -> str:
    """Return what parse_header says against a file, which must be one line with a way out."""
    with pytest.raises(CheckpointError) as caught:
        parse_header(path)
    assert path.name in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.hint.isprintable()
    assert caught.value.hint
    return caught.value.message


def test_agrees_with_the_reference_writer(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    matrix = np.arange(6, dtype=np.int16).reshape(2, 3)
    save_file({"w": matrix, "s": np.array(7, np.float32)}, path, {"format": "pt"})
    tensors = {tensor.name: tensor for tensor in parse_header(path)}
    offset = tensors["w"].offset
    assert tensors["w"] == TensorInfo("w", "I16", (2, 3), path, offset, 12)
    assert tensors["s"].shape == ()
    assert path.read_bytes()[offset : offset + 12] == matrix.tobytes()


def test_order_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = put(tmp_path, {"b": B, "a": A}, bytes(8))
    assert [tensor.name for tensor in parse_header(path)] == ["a", "b"]


def test_empty_tensors_take_no_bytes(tmp_path: Path) -> None:
    empty = {"dtype": "F32", "shape": [3, 0], "data_offsets": [4, 4]}
    end = {"dtype": "F32", "shape": [0], "data_offsets": [8, 8]}
    tensors = parse_header(put(tmp_path, {"a": A, "end": end, "b": B, "empty": empty}, bytes(8)))
    assert [tensor.name for tensor in tensors] == ["a", "empty", "b", "end"]


def test_a_header_may_begin_as_a_pickle_does(tmp_path: Path) -> None:
    path = put(tmp_path, json.dumps({"a": A}).encode().ljust(0x280), bytes(4))
    assert path.read_bytes().startswith(b"\x80\x02")
    assert len(parse_header(path)) == 1


@pytest.mark.parametrize("name", ["../../x", "/abs", "слой.0", "a b"])
def test_a_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    assert parse_header(put(tmp_path, {name: A}, bytes(4)))[0].name == name


@pytest.mark.parametrize("name", ["", "a\0b", "\x1b[31mred", "two\nlines", "\u202egnp", "\ud800", "\n" * 10**6])
def test_unprintable_names(tmp_path: Path, name: str) -> None:
    assert len(refusal(put(tmp_path, {name: A}, bytes(4)))) < 1000


@pytest.mark.parametrize(
    ("length", "says"),
    [
        (2**63, "9223372036854775808 bytes, over 16 MiB"),
        (100_000_001, "over 16 MiB"),
        (1000, "truncated: 71 bytes are there and the header alone needs 1008"),
        (5, "not valid JSON"),
    ],
)
def test_length_field(tmp_path: Path, length: int, says: str) -> None:
    path = put(tmp_path, {"a": A}, bytes(4), length)
    os.truncate(path, 71)
    assert says in refusal(path)


@pytest.mark.parametrize("size", [0, 3, 8])
def test_shorter_than_any_header(tmp_path: Path, size: int) -> None:
    path = put(tmp_path, {"a": A}, bytes(4))
    os.truncate(path, size)
    assert f"truncated: {size} bytes" in refusal(path)


def test_huge_header_in_a_sparse_file(tmp_path: Path) -> None:
    path = put(tmp_path, b"{", length=100_000_001)
    os.truncate(path, 200_000_000)
    assert "over 16 MiB" in refusal(path)


def test_too_many_tensors(tmp_path: Path) -> None:
    entry = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    text = "{" + ",".join(entry % n for n in range(200_001)) + "}"
    assert "200001 tensors, over 200000" in refusal(put(tmp_path, text.encode()))


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b' {"a": 1}', "does not begin with '{'"),
        (b"[]", "does not begin with '{'"),
        (b"{" * 100_000, "not valid JSON"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'{"a":' + b"[" * 200_000, "nested too deeply"),
        (b'{"\xff": 1}', "not valid JSON"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": 1, "a": 1}', "the key 'a' stands there twice"),
        (b'{"a": {"dtype": "U8", "dtype": "F32"}}', "the key 'dtype' stands there twice"),
        (b'{"a": 1} x', "not valid JSON"),
        (b'{"__metadata__": {"a": 1}}', "__metadata__"),
        (b'{"__metadata__": "pt"}', "__metadata__"),
        (b'{"a": %s}' % (b"1" * 5000), "not valid JSON"),
    ],
)
def test_text_of_the_header(tmp_path: Path, header: bytes, says: str) -> None:
    assert says in refusal(put(tmp_path, header))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dtype": "F4"}, "unknown dtype 'F4'"),
        ({"dtype": "\x1b[2J" * 10**6}, "unknown dtype"),
        ({"dtype": None}, "not described by"),
        ({"shape": 4}, "not described by"),
        ({"data_offsets": [4]}, "not described by"),
        ({"shape": [True, 4]}, "whole numbers"),
        ({"shape": [-2, -2]}, "whole numbers"),
        ({"shape": [4.0]}, "whole numbers"),
        ({"shape": ["4"]}, "whole numbers"),
        ({"shape": [2**63, 4]}, "whole numbers"),
        ({"shape": [1] * 33}, "at most 32 dimensions"),
        ({"shape": [2**62, 4]}, "too large"),
        ({"shape": [0, 2**62, 4], "data_offsets": [0, 0]}, "too large"),
        ({"data_offsets": [False, 4]}, "whole numbers"),
        ({"data_offsets": [-4, 0]}, "whole numbers"),
        ({"data_offsets": [0, 2**64]}, "whole numbers"),
        ({"data_offsets": [4, 0]}, "U8 [4] has 4 bytes, but [4, 0] spans -4"),
        ({"dtype": "F32"}, "F32 [4] has 16 bytes, but [0, 4] spans 4"),
    ],
)
def test_entry_of_a_tensor(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    message = refusal(put(tmp_path, {"a": A | change}, bytes(4)))
    assert "tensor 'a'" in message
    assert says in message


def test_entry_that_is_no_table(tmp_path: Path) -> None:
    assert "tensor 'a' is not described" in refusal(put(tmp_path, {"a": 1}))


def test_unknown_dtype_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_header(put(tmp_path, {"a": A | {"dtype": "BF15"}}, bytes(4)))
    assert "did you mean 'BF16'?" in caught.value.hint


@pytest.mark.parametrize(
    ("header", "size", "says"),
    [
        ({"a": A, "b": A}, 4, "tensors 'a' and 'b' overlap"),
        ({"a": A, "b": B | {"data_offsets": [2, 6]}}, 6, "tensors 'a' and 'b' overlap"),
        ({"a": A, "b": B | {"data_offsets": [5, 9]}}, 9, "1 bytes before tensor 'b' belong to no tensor"),
        ({"b": B}, 8, "4 bytes before tensor 'b' belong to no tensor"),
        ({"a": A}, 5, "1 bytes after the last tensor"),
        ({}, 1, "1 bytes after the last tensor"),
        ({"a": A, "b": B}, 7, "truncated: 135 bytes are there and its header needs 136"),
    ],
)
def test_layout(tmp_path: Path, header: dict[str, Any], size: int, says: str) -> None:
    assert says in refusal(put(tmp_path, header, bytes(size)))


class Canary:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("canary",)


@pytest.mark.parametrize("protocol", range(6))
def test_pickle_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Canary(), protocol))
    message = refusal(path)
    assert "pickle renamed" in message or protocol < 2  # the first two protocols have no mark
    assert not (tmp_path / "canary").exists()


def test_zip_renamed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps([1]))
    assert "pickle renamed" in refusal(path)


def test_git_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "Git LFS pointer" in refusal(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_only_regular_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda p: os.symlink("/dev/zero", p)}[kind](path)
    assert "not a regular file" in refusal(path)


def test_links(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.symlink_to("blob")
    assert "a link to a file that is not there" in refusal(path)
    save_file({"w": np.zeros(2)}, tmp_path / "blob")
    assert parse_header(path)[0].file == path


def test_system_errors_are_told(tmp_path: Path) -> None:
    path = tmp_path / "loop.safetensors"
    path.symlink_to(path)
    assert "cannot be read" in refusal(path)


def test_written_header_is_read_by_both(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = write_header([("z", "F32", (2, 3)), ("слой", "I8", ()), ("empty", "F16", [0, 4]), ("a", "U8", [5])])
    path.write_bytes(header + np.arange(6, dtype=np.float32).tobytes() + bytes([7]) + b"hello")
    assert len(header) % 64 == 0
    assert [tensor.name for tensor in parse_header(path) if tensor.nbytes] == ["z", "слой", "a"]
    found = load_file(path)
    assert found["z"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (found["слой"].item(), found["empty"].shape, found["a"].tobytes()) == (7, (0, 4), b"hello")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_the_size_of_the_reference(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(write_header([("w", dtype, (3,))]) + bytes(3 * DTYPES[dtype].itemsize))
    assert parse_header(path)[0].dtype == dtype
    with safe_open(path, "np") as reference:  # refuses a file whose ranges do not fit the dtype
        assert reference.keys() == ["w"]


@pytest.mark.parametrize(
    "entries",
    [
        [("a", "U8", [1]), ("a", "U8", [1])],
        [("a", "float32", [1])],
        [("", "U8", [1])],
        [("a\n", "U8", [1])],
        [("__metadata__", "U8", [1])],
        [("a" * (17 << 20), "U8", [1])],
    ],
)
def test_headers_that_could_not_be_read_are_not_written(entries: list[tuple[str, str, list[int]]]) -> None:
    with pytest.raises(ValueError, match="tensor"):
        write_header(entries)
