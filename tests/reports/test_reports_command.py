"""`porter verify --report`: files that cannot be written are refused before the work, the others are written whole."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import run
from verdicts import failed, inconclusive, passed

from porter.reports import FORMS
from porter.verify.report import ParityReport

SUFFIXES = [".json", ".xml", ".sarif", ".md", ".html"]


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch) -> Callable[[ParityReport], None]:
    """Puts a verdict in place of the work."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)

    def be(found: ParityReport) -> None:
        monkeypatch.setattr("porter.verify.verify", lambda *_, **__: found)

    return be


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verification that must not begin."""

    def verify(*_: object, **__: object) -> Any:
        raise AssertionError("the work was begun")

    monkeypatch.setattr("porter.verify.verify", verify)


def reports(folder: Path, suffixes: list[str] = SUFFIXES) -> list[object]:
    return [word for suffix in suffixes for word in ("--report", folder / f"verdict{suffix}")]


@pytest.mark.parametrize(("found", "code"), [(passed(), 0), (failed(), 1), (inconclusive(), 3)])
def test_every_form_is_written_whatever_the_verdict(
    found: ParityReport, code: int, verdict: Callable[[ParityReport], None], tmp_path: Path
) -> None:
    verdict(found)
    done = run("verify", "port", "--against", "checkpoint", *reports(tmp_path), "--json")
    assert (done.code, done.err) == (code, "")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == sorted(SUFFIXES)
    assert all(path.stat().st_size > 500 for path in tmp_path.iterdir())
    assert (tmp_path / "verdict.json").read_text() == done.out


def test_a_true_verification_is_reported(llama: Path, llama_port: Path, tmp_path: Path) -> None:
    done = run("verify", llama_port, "--against", llama, "--level", "weights", *reports(tmp_path))
    assert done.code == 0
    assert "parity holds" in done.out
    assert json.loads((tmp_path / "verdict.json").read_text())["passed"] is True


def test_a_terminal_takes_what_is_no_number(verdict: Callable[[ParityReport], None]) -> None:
    """A port so wrong that its perplexity is infinite."""
    verdict(failed())
    done = run("verify", "port", "--against", "checkpoint")
    assert done.code == 1
    assert "0.002 ±inf%" in done.out


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("verdict.pdf", "no form of report is called '.pdf'"),
        ("verdict", "no form of report is called 'verdict'"),
        ("verdict.HTML", "no form of report is called '.HTML'"),
        ("missing/verdict.html", "cannot be written: no such file or directory"),
        ("a-file/verdict.html", "cannot be written: not a directory"),
        ("folder.html", "is a folder"),
        ("port/verdict.html", "lies in"),
        ("checkpoint/deep/verdict.json", "lies in"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(name: str, says: str, tmp_path: Path) -> None:
    for folder in ("folder.html", "port", "checkpoint"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a-file").touch()
    before = sorted(tmp_path.rglob("*"))
    given = ["verify", tmp_path / "port", "--against", tmp_path / "checkpoint"]
    refusal = run(*given, "--report", tmp_path / "good.md", "--report", tmp_path / name).refusal()
    assert says in refusal
    assert sorted(tmp_path.rglob("*")) == before  # trying leaves nothing


@pytest.mark.usefixtures("no_work")
def test_the_forms_that_there_are_are_listed() -> None:
    assert list(FORMS) == SUFFIXES
    assert ", ".join(SUFFIXES) in run("verify", "x", "--against", "y", "--report", "a.txt").refusal()


def test_a_full_disk_leaves_the_old_report(
    verdict: Callable[[ParityReport], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    verdict(passed())
    (tmp_path / "verdict.md").write_text("old")
    monkeypatch.setattr("porter.package.files.os.fsync", full)
    done = run("verify", "port", "--against", "checkpoint", *reports(tmp_path, [".md"]))
    assert done.code == 2
    assert "parity holds" in done.out  # the work is not lost
    assert "verdict.md cannot be written: no space left on device" in done.err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("verdict.md", "old")]


@pytest.mark.parametrize(
    ("on_github", "suffixes", "annotated"),
    [("true", [".md"], True), ("true", SUFFIXES, True), ("true", [".html"], False), ("", [".md"], False)],
)
def test_annotations_are_for_github_and_go_to_stderr(
    on_github: str,
    suffixes: list[str],
    annotated: bool,
    verdict: Callable[[ParityReport], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdict(failed())
    monkeypatch.setenv("GITHUB_ACTIONS", on_github)
    done = run("verify", "port", "--against", "checkpoint", *reports(tmp_path, suffixes), "--json")
    assert done.json()["passed"] is False
    assert len([line for line in done.err.splitlines() if line.startswith("::error ")]) == (4 if annotated else 0)
