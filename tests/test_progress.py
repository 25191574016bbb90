"""Long work, told: a bar for a person, plain lines for a log, nothing when quiet."""

from __future__ import annotations

import io
import re
import time
from itertools import chain, repeat
from types import SimpleNamespace

import pytest
from rich.console import Console

from porter import progress as room
from porter.progress import progress


def told(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, quiet: bool = False, seconds: float = 11) -> str:
    """What is on stderr after half of 2 GB was written in so many seconds."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=140, color_system=None)
    monkeypatch.setattr(room, "err", lambda: console)
    clock = chain([0.0, 1.0], repeat(1.0 + seconds))
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with progress(quiet) as watch:
        watch("reading")
        watch("writing weights", 0, 2 * 10**9)
        for done in (4, 7, 10) if terminal else (10,):
            time.sleep(0.01)  # a rate takes two moments
            watch("writing weights", done * 10**8, 2 * 10**9)
    return written.getvalue()


def test_a_log_has_a_line_for_each_stage_and_one_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = told(monkeypatch, terminal=False).splitlines()
    assert lines[:2] == ["reading", "writing weights"]
    assert lines[2] == "writing weights: 1 GB of 2 GB (50%), 90.9 MB/s, about 11 s left"
    assert len(lines) == 3


def test_a_log_is_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, terminal=False, seconds=3).splitlines() == ["reading", "writing weights"]


def test_a_terminal_has_a_bar_with_bytes_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.search(r"writing weights ━+ +1\.0/2\.0 GB [\d.]+ \w+/s \d+:\d+:\d+", told(monkeypatch, terminal=True))


def test_quiet_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, terminal=False, quiet=True) == ""
    assert told(monkeypatch, terminal=True, quiet=True) == ""
