"""The weight files of a port, written side by side by this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from porter.order import Work
from porter.package.execute import Task, Tell, cores, run_here
from porter.package.plan import PlannedFile
from porter.package.stream import write_weights


def write_here(work: Work, folder: Path, jobs: int | None, tell: Tell) -> list[dict[str, Any]]:
    """The `Executor` of one machine."""

    def task(file: PlannedFile) -> Task:
        return lambda ahead, count: write_weights(folder, file, work.model.source, work.dtype, ahead=ahead, count=count)

    return run_here([task(file) for file in work.files], jobs or cores(), tell)
