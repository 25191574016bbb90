"""Runs the weight files of a port as independent tasks on this machine's cores."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from porter.source import CHUNK_BYTES

HELD_BYTES = 240 * 2**20  # of chunks in memory, in all files that are written side by side
IN_HAND = 12  # chunks that the steps of one file work on at once, with what they need for it
AHEAD = 8  # chunks that wait between reading and writing: more even out what a disk does, and are of no further use
SPARE_BYTES = 32 * 2**20
TICK = 0.1  # seconds between two looks at the progress

Task = Callable[[int, Callable[[int], None]], dict[str, Any]]  # (chunks ahead, called with bytes done) → manifest entry
Tell = Callable[[int], None]  # bytes done in all, from the thread that called


class _Stopped(Exception):
    """Another task failed, or the user interrupted."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lanes(tasks: int, jobs: int) -> int:
    """How many tasks run side by side: two threads to each where there are enough, no more than memory is for."""
    return max(1, min(tasks, jobs // 2, HELD_BYTES // ((IN_HAND + 2) * CHUNK_BYTES)))


def ahead(side_by_side: int, jobs: int) -> int:
    """How many chunks of a task wait between reading and writing; none where one thread does it all."""
    return min(AHEAD, HELD_BYTES // (side_by_side * CHUNK_BYTES) - IN_HAND) if jobs > 1 else 0


def memory_needed(tasks: int, jobs: int) -> int:
    """Bytes that the running tasks hold at most, beyond what the process has: chunks being read, cast, waiting and
    written, and the digests of the ranges.
    """
    running = lanes(tasks, jobs)
    return running * (IN_HAND + ahead(running, jobs)) * CHUNK_BYTES + SPARE_BYTES


def run_here(tasks: Sequence[Task], jobs: int, tell: Tell) -> list[dict[str, Any]]:
    """Runs the tasks with `jobs` threads in all, two to a task where there are enough; their results in order.

    The first error, or an interrupt, stops the others at their next chunk and is raised.
    """
    done, stop, lock = [0], threading.Event(), threading.Lock()

    def count(nbytes: int) -> None:
        if stop.is_set():
            raise _Stopped
        with lock:
            done[0] += nbytes

    side_by_side = lanes(len(tasks), jobs)
    with ThreadPoolExecutor(side_by_side) as pool:
        try:
            running = [pool.submit(task, ahead(side_by_side, jobs), count) for task in tasks]
            pending: set[Any] = set(running)
            while pending:
                over, pending = wait(pending, TICK, FIRST_EXCEPTION)
                tell(done[0])
                for future in over:
                    future.result()  # raises what the task raised
            return [future.result() for future in running]
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
