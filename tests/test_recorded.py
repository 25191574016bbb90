"""A verdict that was recorded is the answer for as long as nothing changed that it depends on, and no longer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import run, spawn
from test_architecture import HEAVY, LOADED

from porter import digests, recorded
from porter.port import convert
from porter.verify.report import Check, CheckStatus, Level, ParityReport


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("PORTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pair(llama: Path, llama_port: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of a checkpoint and its port, that lie there for a while."""
    copies = Path(shutil.copytree(llama, tmp_path / "checkpoint")), Path(shutil.copytree(llama_port, tmp_path / "port"))
    return copies


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of each verification that is made, in the place of the real ones; all of them pass."""
    made: list[dict[str, Any]] = []

    def verify(port: Path, against: Path, **options: Any) -> ParityReport:
        made.append(options)
        return verdict("pass")

    monkeypatch.setattr("porter.verify.verify", verify)
    return made


def verdict(status: CheckStatus) -> ParityReport:
    level = Level("weights", (Check("a", 0, 0, status),))
    return ParityReport("a port", "a checkpoint", "device", "float32", (level,), None, 12.34)


def verify(pair: tuple[Path, Path], *more: object) -> dict[str, Any]:
    checkpoint, port = pair
    return run("verify", port, "--against", checkpoint, "--json", *more).json()


# ------------------------------------------------------------------------------ answered from the record


def test_a_recorded_verdict_is_told_without_what_computes(pair: tuple[Path, Path]) -> None:
    checkpoint, port = pair
    arguments = ["verify", port, "--against", checkpoint, "--level", "semantics", "--tokens", "2"]
    first = run(*arguments, "--json").json()
    done = spawn(*arguments, "--json", program=LOADED.format(heavy=HEAVY | {"numpy"}))
    words, _, last = done.out.rstrip("\n").rpartition("\n")
    second = json.loads(words)
    assert last == "code 0"  # and no module that is heavy
    assert (first["recorded"], first["status"]) == (None, "pass")
    assert second["recorded"] is not None
    assert second["notes"][-1].startswith(f"recorded {second['recorded']}, when it took ")
    told = {"recorded", "notes", "seconds"}
    assert {n: v for n, v in second.items() if n not in told} == {n: v for n, v in first.items() if n not in told}


@pytest.mark.parametrize(("status", "code"), [("pass", 0), ("fail", 1), ("inconclusive", 3)])
def test_every_verdict_is_recorded(
    status: CheckStatus, code: int, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("porter.verify.verify", lambda *_, **__: verdict(status))
    found = [run("verify", pair[1], "--against", pair[0]) for _ in range(2)]
    assert [one.code for one in found] == [code, code]
    assert ["--fresh verifies anew" in one.out for one in found] == [False, True]


def test_an_error_is_not(pair: tuple[Path, Path], cache: Path) -> None:
    checkpoint, port = pair
    (checkpoint / "config.json").write_text("{}")
    for _ in range(2):
        run("verify", port, "--against", checkpoint, "--json").refusal()
    assert not (cache / "verdicts").exists()


def test_fresh_verifies_anew_and_records_that(pair: tuple[Path, Path], asked: list[dict[str, Any]]) -> None:
    verify(pair)
    assert verify(pair, "--fresh")["recorded"] is None
    assert verify(pair)["recorded"] is not None
    assert len(asked) == 2


def test_a_record_holds_wherever_the_same_files_lie(
    pair: tuple[Path, Path], asked: list[dict[str, Any]], cache: Path, tmp_path: Path
) -> None:
    """As in CI, where each run has its own checkout and is given the cache of the one before."""
    verify(pair)
    moved = Path(shutil.copytree(pair[0], tmp_path / "a")), Path(shutil.copytree(pair[1], tmp_path / "b"))
    shutil.rmtree(cache / "digests")
    found = verify(moved)
    assert len(asked) == 1
    assert (found["against"], found["port"]) == tuple(map(str, moved))


# ------------------------------------------------------------------------------ and no longer


def one_bit(path: Path) -> None:
    """Turns a bit of a file, whose time of modification is put back."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_code(monkeypatch: pytest.MonkeyPatch, pair: tuple[Path, Path]) -> None:
    monkeypatch.setattr(recorded, "_code", lambda: "other")


def other_versions(monkeypatch: pytest.MonkeyPatch, pair: tuple[Path, Path]) -> None:
    monkeypatch.setattr(recorded, "versions", lambda: {"torch": "3"})


def other_weights(monkeypatch: pytest.MonkeyPatch, pair: tuple[Path, Path]) -> None:
    one_bit(next(pair[1].glob("*.safetensors")))


def other_checkpoint(monkeypatch: pytest.MonkeyPatch, pair: tuple[Path, Path]) -> None:
    one_bit(pair[0] / "model.safetensors")


def other_tokenizer(monkeypatch: pytest.MonkeyPatch, pair: tuple[Path, Path]) -> None:
    (pair[0] / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize("change", [other_code, other_versions, other_weights, other_checkpoint, other_tokenizer])
def test_what_changed_is_verified_anew(
    change: Callable[[pytest.MonkeyPatch, tuple[Path, Path]], None],
    pair: tuple[Path, Path],
    asked: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        digests, "MOMENT", -(10**18)
    )  # digests are relied on at once, as they are of files that lay there
    verify(pair)
    assert verify(pair)["recorded"] is not None
    change(monkeypatch, pair)
    assert verify(pair)["recorded"] is None
    assert len(asked) == 2


def test_other_options_are_another_question(
    pair: tuple[Path, Path], asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    questions = [
        [],
        ["--level", "weights"],
        ["--tokens", "9"],
        ["--layers", "0"],
        ["--memory", "6GB"],
        ["--prompts", prompts],
    ]
    for text in ("one", "two"):
        prompts.write_text(text)
        for question in questions:
            verify(pair, *question)
    assert len(asked) == len(questions) + 1  # the file of prompts is another, its name is not
    assert [options["prompts"] for options in asked[-2:]] == [prompts, prompts]


@pytest.mark.parametrize(
    "given", [("--runtime", "sh"), ("--provider", "CPUExecutionProvider"), ("--public-key", "key")]
)
def test_what_lies_in_no_file_is_found_out_each_time(
    given: tuple[str, str], pair: tuple[Path, Path], asked: list[dict[str, Any]]
) -> None:
    for _ in range(2):
        assert verify(pair, *given)["recorded"] is None
    assert len(asked) == 2


def test_what_is_to_be_written_is_written_each_time(
    pair: tuple[Path, Path], asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    for _ in range(2):
        document, _ = recorded.verify(pair[1], pair[0], levels=("weights",), somewhere=tmp_path / "new")
        assert document["recorded"] is None


def test_what_changes_under_a_verification_is_not_recorded(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights,) = pair[1].glob("*.safetensors")

    def verify_and_change(*_: object, **__: object) -> ParityReport:
        one_bit(weights)
        return verdict("pass")

    monkeypatch.setattr("porter.verify.verify", verify_and_change)
    verify(pair)
    one_bit(weights)  # as it was
    assert verify(pair)["recorded"] is None


@pytest.mark.parametrize("harm", ["", "{", "[]", '{"form": 0}', '{"form": 1, "exit_code": 2, "document": {}}'])
def test_a_damaged_record_is_none(harm: str, pair: tuple[Path, Path], asked: list[dict[str, Any]], cache: Path) -> None:
    verify(pair)
    (record,) = (cache / "verdicts").iterdir()
    record.write_text(harm)
    assert verify(pair)["recorded"] is None
    assert verify(pair)["recorded"] is not None


def test_without_a_cache_nothing_is_remembered(
    pair: tuple[Path, Path], asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTER_CACHE", os.devnull)
    for _ in range(2):
        assert verify(pair)["recorded"] is None


# ------------------------------------------------------------------------------ what is digested


def test_a_port_that_points_into_its_checkpoint_is_recorded_at_once(llama: Path, tmp_path: Path) -> None:
    """Though its first verification takes digests and puts them into its manifest."""
    checkpoint = Path(shutil.copytree(llama, tmp_path / "checkpoint"))
    convert(checkpoint, "onnxruntime-cpu", checkpoint, weights="reference")
    first, second = (verify((checkpoint, checkpoint), "--level", "weights") for _ in range(2))
    assert (first["status"], first["recorded"]) == ("pass", None)
    assert second["recorded"] is not None
    assert second["port_sha256"] == first["port_sha256"]


def test_a_document_says_what_it_is_about(pair: tuple[Path, Path]) -> None:
    document = verify(pair, "--level", "weights")
    files = sorted(path for path in pair[1].iterdir() if path.is_file())
    listed = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    assert document["port_sha256"] == hashlib.sha256(listed.encode()).hexdigest()
    assert document["versions"] == recorded.versions()
    assert document["versions"]["torch"] == __import__("torch").__version__
    assert document["runtime"] is None


def test_a_version_is_that_of_whatever_brings_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "COMPUTING", ("yaml", "no-such-package"))
    found = recorded.versions()
    assert found["yaml"] == f"PyYAML {__import__('yaml').__version__}"
    assert found["no-such-package"] is None


def test_a_digest_is_not_relied_on_where_a_clock_may_not_have_ticked(cache: Path, tmp_path: Path) -> None:
    """Two writes within one tick leave the same size and times."""
    path = tmp_path / "file"
    path.write_text("a")
    taker = digests.Digests(cache)
    assert taker.of([path])[path] == hashlib.sha256(b"a").hexdigest()
    (kept,) = (cache / "digests").iterdir()
    entry = json.loads(kept.read_text())["file"]
    now = time.time_ns()
    for taken, relied_on in ((now, False), (now + 3 * digests.MOMENT, True)):
        kept.write_text(json.dumps({"file": entry | {"sha256": "remembered", "taken_ns": taken}}))
        assert (taker.of([path])[path] == "remembered") == relied_on


@pytest.mark.parametrize(("bisect", "read"), [(False, True), (True, False)])
def test_a_checkpoint_is_read_for_a_record_alone(
    bisect: bool, read: bool, llama: Path, llama_port: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):
        """The verification itself, which is not what this is about."""

    def story(*_: object, **__: object) -> None:
        raise Begun

    taken: list[Path] = []
    monkeypatch.setattr("porter.verify.verify", story)
    monkeypatch.setattr(recorded, "_of_checkpoint", lambda folder: taken.append(folder) or [])
    with pytest.raises(Begun):
        recorded.verify(llama_port, llama, levels=["semantics"], bisect=tmp_path / "block" if bisect else None)
    assert taken == ([llama] if read else [])
