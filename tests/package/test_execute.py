"""Tasks side by side: results in order, the first error ends the others, progress is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from porter.package.execute import Task, lanes, run_here


def task(number: int, *, nbytes: int = 10) -> Task:
    def work(ahead: int, count: Callable[[int], None]) -> dict[str, Any]:
        time.sleep(0.02 * (number % 3))
        count(nbytes)
        return {"number": number, "ahead": ahead}

    return work


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_results_come_in_order(jobs: int) -> None:
    told: list[int] = []
    found = run_here([task(n) for n in range(7)], jobs, told.append)
    assert [f["number"] for f in found] == list(range(7))
    assert {f["ahead"] > 0 for f in found} == {jobs > 1}
    assert told[-1] == 70
    assert told == sorted(told)


def test_no_task_is_no_work() -> None:
    assert run_here([], 4, lambda done: None) == []


@pytest.mark.parametrize(
    ("tasks", "jobs", "expected"), [(5, 1, 1), (5, 2, 1), (5, 8, 4), (2, 8, 2), (0, 8, 1), (99, 64, 4)]
)
def test_two_threads_to_a_task(tasks: int, jobs: int, expected: int) -> None:
    assert lanes(tasks, jobs) == expected


@pytest.mark.parametrize("error", [ValueError("x"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_the_first_error_ends_the_others(error: BaseException) -> None:
    ended = threading.Event()

    def endless(ahead: int, count: Callable[[int], None]) -> dict[str, Any]:
        try:
            while True:
                time.sleep(0.01)
                count(1)
        finally:
            ended.set()

    def fails(ahead: int, count: Callable[[int], None]) -> dict[str, Any]:
        time.sleep(0.05)
        raise error

    with pytest.raises(type(error)):
        run_here([endless, fails], 4, lambda done: None)
    assert ended.is_set()


def test_an_interrupt_where_progress_is_told_ends_the_work() -> None:
    """Control-C reaches the main thread, which is the one that tells."""

    def endless(ahead: int, count: Callable[[int], None]) -> dict[str, Any]:
        while True:
            time.sleep(0.01)
            count(1)

    def tell(done: int) -> None:
        if done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_here([endless], 2, tell)
