"""Prompts of text: those that come with porter, and a user's own."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from command import run
from measured import checks, report
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from porter.errors import ParityError
from porter.port import convert
from porter.verify.texts import FEWEST, KEPT, LONGEST, SHORTEST, TEXT, bundled, from_file

LINE = "In the beginning God created the heaven and the earth,"


@pytest.fixture(scope="module")
def trained() -> Path:
    """A checkpoint with a tokenizer of 1024 tokens."""
    return tiny.SAMPLES / "deepseek-v3-tiny"


@pytest.fixture(scope="module")
def port(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts") / "port"
    convert(trained, "onnxruntime-cpu", folder, dtype="float16")
    return folder


def own(folder: Path, lines: list[Any], name: str = "prompts.txt") -> Path:
    """A file of prompts; what is no text is written as JSON."""
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return path


# ------------------------------------------------------------------------------ the text that comes with porter


def test_the_text_is_of_many_kinds() -> None:
    text = TEXT.read_text("utf-8")
    for part in (
        "def merge",
        "int main",
        "SELECT",
        "道可道",
        "推理分为两个阶段",
        "犬を連れた",
        "Поезд",
        "3.14159",
        "في السوق",
    ):
        assert part in text


def test_prompts_are_cut_from_it(trained: Path) -> None:
    found = bundled(trained, 1024, 32, (32, 96))
    assert found is not None
    assert (found.source, [ids.shape for ids in found.helpings]) == ("bundled", [(32, 33), (96, 33)])
    rows = [tuple(row) for ids in found.helpings for row in ids.tolist()]
    assert len(set(rows)) == 128
    tokenizer, text = Tokenizer.from_file(str(trained / "tokenizer.json")), TEXT.read_text("utf-8")
    places = [text.find(tokenizer.decode(row[2:-2]).strip("�")) / len(text) for row in found.helpings[0].tolist()]
    known = [place for place in places if place >= 0]
    assert len(known) > 25  # but for those that begin or end within a letter
    assert known == sorted(known)
    assert (min(known), max(known)) == (pytest.approx(0, abs=0.05), pytest.approx(1, abs=0.05))


def test_a_text_begins_as_the_tokenizer_begins_it(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "?": 2, "the": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = bundled(tmp_path, 4, 10, (4, 4))
    assert found is not None
    ids = np.concatenate(found.helpings)
    assert ids.shape == (8, 11)
    assert (ids[:, 0] == 0).all()
    assert set(ids[:, 1:].flat) == {2, 3}  # none ends: these texts go on
    file = own(tmp_path, ["the the the the the the the the the"] * 8)
    assert from_file(file, tmp_path, 4, None).helpings[0][0].tolist() == [0] + [3] * 9


def test_without_a_tokenizer_that_fits_there_is_none(trained: Path, tmp_path: Path) -> None:
    assert bundled(tmp_path, 1024, 32, (8,)) is None
    assert bundled(trained, 512, 32, (8,)) is None  # it knows more tokens than the model
    (tmp_path / "tokenizer.json").write_text("{}")
    assert bundled(tmp_path, 1024, 32, (8,)) is None


# ------------------------------------------------------------------------------ the user's own


def test_a_prompt_a_line(trained: Path, tmp_path: Path) -> None:
    lines = [" ".join([LINE] * n) for n in (1, 2, 3, 4)] * 3
    found = from_file(own(tmp_path, ["", *lines, " "]), trained, 1024, None)
    (ids,) = found.helpings
    whole = Tokenizer.from_file(str(trained / "tokenizer.json")).encode(LINE).ids
    assert (found.source, ids.tolist()) == ("file", [whole] * 12)
    assert found.notes == (
        f"each prompt was cut to its first {len(whole)} tokens, as many as the shortest (line 2) has: "
        "9 of 12 were longer",
    )


def test_objects_a_line(trained: Path, tmp_path: Path) -> None:
    lines = [{"prompt": LINE}, {"ids": list(range(13))}] * 4
    (ids,) = from_file(own(tmp_path, lines, "prompts.jsonl"), trained, 1024, None).helpings
    assert ids.shape == (8, 13)
    assert ids[1].tolist() == list(range(13))


def test_ids_need_no_tokenizer(tmp_path: Path) -> None:
    file = own(tmp_path, [{"ids": list(range(9))}] * 8, "prompts.jsonl")
    assert from_file(file, tmp_path, 97, None).helpings[0].shape == (8, 9)


@pytest.mark.parametrize(("positions", "length"), [(None, LONGEST), (20, 21)])
def test_what_is_too_long_is_cut_and_told(positions: int | None, length: int, tmp_path: Path) -> None:
    file = own(tmp_path, [{"ids": [1] * 300}] * 9, "prompts.jsonl")
    found = from_file(file, tmp_path, 97, positions)
    assert found.helpings[0].shape == (9, length)
    assert found.notes == (f"each prompt was cut to its first {length} tokens: 9 of 9 were longer",)


def test_many_prompts_of_many_words_are_read_as_far_as_there_is_room(tmp_path: Path) -> None:
    file = own(tmp_path, [{"ids": [1] * 100}] * 64, "prompts.jsonl")
    (ids,) = from_file(file, tmp_path, 150_000, None).helpings
    assert SHORTEST <= ids.shape[1] < 100
    assert ids[:, 1:].size * 150_000 * 8 <= KEPT
    with pytest.raises(ParityError, match="the logits of all would take more than 2 GiB"):
        from_file(own(tmp_path, [{"ids": [1] * 100}] * 800, "more.jsonl"), tmp_path, 150_000, None)


@pytest.mark.parametrize(
    ("lines", "name", "message"),
    [
        ([], "prompts.txt", "has 0 prompts"),
        ([LINE] * (FEWEST - 1), "prompts.txt", "has 7 prompts, and no interval"),
        ([*[LINE] * 8, "Amen"], "prompts.txt", "line 9: the prompt has . tokens"),
        ([LINE] * 8, "prompts.jsonl", "line 1: neither a prompt nor token ids"),
        ([{"prompt": LINE}] * 8 + [{"text": LINE}], "prompts.jsonl", "line 9: neither"),
        ([{"prompt": LINE, "ids": [1]}] * 8, "prompts.jsonl", "line 1: neither"),
        ([{"ids": [1, 2.5]}] * 8, "prompts.jsonl", "line 1: neither"),
        ([{"ids": LINE}] * 8, "prompts.jsonl", "line 1: neither"),
        ([{"ids": [5] * 9}, *[{"ids": [5] * 8 + [1024]}] * 8], "prompts.jsonl", "line 2: token 1024 is not in"),
        ([{"ids": [-1] * 9}] * 8, "prompts.jsonl", "line 1: token -1 is not in"),
    ],
)
def test_what_is_refused(lines: list[Any], name: str, message: str, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=message) as refusal:
        from_file(own(tmp_path, lines, name), trained, 1024, None)
    assert refusal.value.hint


def test_files_that_are_none(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="cannot be read"):
        from_file(tmp_path / "nowhere", trained, 1024, None)
    (tmp_path / "latin").write_bytes("ä".encode("latin-1"))
    with pytest.raises(ParityError, match="cannot be read"):
        from_file(tmp_path / "latin", trained, 1024, None)
    with pytest.raises(ParityError, match="has no tokenizer"):
        from_file(own(tmp_path, [LINE] * 8), tmp_path, 1024, None)


# ------------------------------------------------------------------------------ the command


def test_the_report_says_what_was_read(trained: Path, port: Path, tmp_path: Path) -> None:
    document = report(port, trained, "distribution")
    asked = document["prompts"]
    assert (document["status"], asked["source"], asked["count"] in (32, 128)) == ("pass", "bundled", True)
    helpings = bundled(trained, 1024, 32, (32, 96))
    assert helpings is not None
    read = b"".join(ids.astype("<i8").tobytes() for ids in helpings.helpings[: 1 if asked["count"] == 32 else 2])
    assert asked["sha256"] == hashlib.sha256(read).hexdigest()


def test_prompts_of_ones_own(trained: Path, port: Path, tmp_path: Path) -> None:
    verses = (trained / "README.md").read_text("utf-8").split("\n")
    file = own(tmp_path, [f"{LINE} {n} {verses[n % 8]}" for n in range(40)])
    found = run("verify", port, "--against", trained, "--level", "distribution", "--prompts", file, "--json")
    document = found.json()
    assert (found.code, document["status"]) == (0, "pass")
    assert (document["prompts"]["source"], document["prompts"]["count"]) == ("file", 40)
    assert "of 40 were longer" in document["notes"][-1]
    assert 1 < checks(document)["cost: perplexity"]["value"] < 1e6


def test_the_perplexity_is_that_of_the_text(trained: Path, port: Path, tmp_path: Path) -> None:
    """What the model was trained on is no surprise to it; shuffled, it is."""
    verse = Tokenizer.from_file(str(trained / "tokenizer.json")).encode(f"{LINE} {LINE}").ids[:24]
    shuffled = [verse[0], *np.random.default_rng(0).permutation(verse[1:]).tolist()]
    found = []
    for ids in (verse, shuffled):
        file = own(tmp_path, [{"ids": ids}] * 8, "prompts.jsonl")
        done = run("verify", port, "--against", trained, "--level", "distribution", "--prompts", file, "--json")
        found.append(checks(done.json())["cost: perplexity"]["original"])
    assert 5 * found[0] < found[1]


def test_a_checkpoint_without_tokenizer_writes_its_own(trained: Path, port: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(trained, tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    assert report(port, bare, "dtype")["prompts"]["source"] == "original"
    found = run("verify", port, "--against", bare, "--prompts", own(tmp_path, [LINE] * 8))
    assert found.code == 2
    assert "has no tokenizer.json" in found.err
    assert "hint:" in found.err


@pytest.mark.parametrize("level", ["weights", "semantics"])
def test_levels_that_read_no_prompts_take_none(level: str, trained: Path, port: Path, tmp_path: Path) -> None:
    file = own(tmp_path, [LINE] * 8)
    found = run("verify", port, "--against", trained, "--level", level, "--prompts", file)
    assert (found.code, "prompts are read at the dtype and distribution levels" in found.err) == (2, True)
    if level == "weights":
        assert report(port, trained, level)["prompts"] is None
