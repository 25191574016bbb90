"""config.json: strict JSON, bounded, and nothing in it is obeyed."""

import os
from pathlib import Path

import pytest

from porter.checkpoint.config import read_config
from porter.errors import CheckpointError


def refusal(folder: Path) -> str:
    """Return what read_config says, which must be one line with a way out."""
    with pytest.raises(CheckpointError) as caught:
        read_config(folder)
    assert caught.value.message.isprintable()
    assert caught.value.hint
    return caught.value.message


def test_values_come_as_they_are(tmp_path: Path) -> None:
    text = '{"model_type": "llama", "rope_theta": 1e6, "head_dim": null, "name": "\\ud83d\\ude00"}'
    (tmp_path / "config.json").write_text(text)
    expected = {"model_type": "llama", "rope_theta": 1e6, "head_dim": None, "name": "\U0001f600"}
    assert read_config(tmp_path) == expected


def test_no_model_type_is_left_to_the_families(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": -1}')
    assert read_config(tmp_path) == {"hidden_size": -1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{", "not valid JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands there twice"),
        (b'{"\\u001b[31m": 1, "\\u001b[31m": 1}', r"the key '\x1b[31m' stands there twice"),
        (b'{"eps": NaN}', "NaN is not a finite number"),
        (b'{"eps": -Infinity}', "-Infinity is not a finite number"),
        (b'{"eps": 1e999}', "1e999 is not a finite number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"model_type": ["llama"]}', "model_type is not a string"),
        (b'{"model_type": null}', "model_type is not a string"),
    ],
)
def test_refused(tmp_path: Path, text: bytes, says: str) -> None:
    (tmp_path / "config.json").write_bytes(text)
    message = refusal(tmp_path)
    assert message.startswith("config.json")
    assert says in message


def test_half_a_gigabyte(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    os.truncate(tmp_path / "config.json", 500 << 20)
    assert "larger than 4 MiB" in refusal(tmp_path)


def test_missing(tmp_path: Path) -> None:
    assert "config.json is missing" in refusal(tmp_path)


def test_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert "not a regular file" in refusal(tmp_path)
