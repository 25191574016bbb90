"""Long work, told on stderr: a bar on a terminal, plain lines in a log, nothing when quiet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from porter.render import err, size

SECONDS_BETWEEN_LINES = 10


@contextmanager
def progress(quiet: bool) -> Iterator[Any]:
    """A watcher for long work: a bar on a terminal, plain lines elsewhere, nothing when quiet.

    Called with a stage, and where bytes are counted with those done and those in all.
    """
    console = err()
    if quiet or not console.is_terminal:
        yield _Lines(quiet)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield _Bars(bars)


class _Lines:
    """A line for each stage, and one every ten seconds: logs are read later, by people and by grep."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._stage, self._begun, self._told = quiet, "", 0.0, 0.0

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begun, self._told = stage, now, now
            self._say(stage)
        elif done < total and now - self._told >= SECONDS_BETWEEN_LINES:
            rate = done / (now - self._begun)
            left = f", about {(total - done) / rate:.0f} s left" if rate else ""
            self._say(f"{stage}: {size(done)} of {size(total)} ({done / total:.0%}), {size(rate)}/s{left}")
            self._told = now

    def _say(self, line: str) -> None:
        if not self._quiet:
            err().print(escape(line), style="dim", soft_wrap=True)


class _Bars:
    """One bar per stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars, self._stage, self._task = bars, "", TaskID(0)

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        if stage != self._stage:
            if self._stage:
                self._bars.remove_task(self._task)
            self._stage, self._task = stage, self._bars.add_task(stage, total=total or None)
        self._bars.update(self._task, completed=done, total=total or None)
