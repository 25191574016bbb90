"""The weight files of a port as tasks of a Ray cluster: https://docs.ray.io.

The cluster that RAY_ADDRESS names is joined (`host:port` of its head, or `auto` on one of its nodes); without it, a Ray
of our own is started on this machine for as long as it takes. Every node needs this version of porter and sees
checkpoint and port under the same paths. A file whose worker dies is given to another one, which goes on behind what
the journal says.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from porter.errors import PorterError, PortError
from porter.executors.errand import Errand, errands, run_errand
from porter.order import Work
from porter.package.execute import Tell, cores, lanes
from porter.package.plan import PlannedFile
from porter.package.stream import journal_of

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: nothing is reported to anybody
import ray
from ray.exceptions import RayError, RayTaskError

RETRIES = 3  # how often a file whose worker died is given to another one
TICK = 0.5  # seconds between two looks at the journals
SECONDS_TO_ANSWER = 10.0
PATIENCE = 10.0  # seconds that a cancelled worker has to come to the end of its chunk


def write_on_cluster(work: Work, folder: Path, jobs: int | None, tell: Tell) -> list[dict[str, Any]]:
    """The `Executor` of a Ray cluster; without `jobs`, Ray decides by its cores how many files are written at once.

    Raises PortError when no cluster can be reached, a worker does not share the files, or workers die again and again.
    """
    with _silent(), _connected(jobs):
        threads = max(1, min(2, jobs or 2, _cores_of_a_node()))
        side_by_side = lanes(len(work.files), jobs) if jobs else len(work.files)
        return _run(work.files, errands(work, folder, threads), side_by_side, tell)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Ray tells of workers that died on stdout, where there must be one document and nothing else."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


@contextlib.contextmanager
def _connected(jobs: int | None) -> Iterator[None]:
    """Within a cluster; one that this program has joined already is left as it is."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    where = "on this machine" if address == "local" else f"at RAY_ADDRESS '{address}'"
    own = {"num_cpus": jobs or cores(), "include_dashboard": False} if address == "local" else {}
    try:
        _check_answers(address)
        ray.init(address=address, logging_level="ERROR", log_to_driver=False, **own)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        raise PortError(
            f"there is no Ray {where}: {_first_line(error)}",
            "set RAY_ADDRESS to host:port of a cluster's head, or unset it to run Ray on this machine",
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raises what a socket raises where nobody listens: Ray itself would wait for ten minutes and more."""
    if address not in {"local", "auto"}:
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()


def _cores_of_a_node() -> int:
    """Of the largest one: a task that asks for more would wait for ever."""
    return max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)


def _run(files: Sequence[PlannedFile], sent: Sequence[Errand], side_by_side: int, tell: Tell) -> list[dict[str, Any]]:
    progress = [_Progress(errand, file) for errand, file in zip(sent, files, strict=True)]
    entries: dict[int, dict[str, Any]] = {}
    waiting, running = list(sent), dict[Any, Errand]()
    try:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                errand = waiting.pop(0)
                running[_submit(errand)] = errand
            over, _ = ray.wait(list(running), num_returns=1, timeout=TICK)
            tell(sum(p.done() for p in progress))
            for task in over:
                errand = running.pop(task)
                entries[errand.number] = _entry(task, files[errand.number])
    except BaseException:
        _cancel(list(running))
        raise
    return [entries[n] for n in range(len(files))]


class _Progress:
    """How much of a file is finished, by its journal: the file system is shared, so no word need pass."""

    def __init__(self, errand: Errand, file: PlannedFile) -> None:
        self._journal = journal_of(errand.folder, file)
        self._after = list(accumulate((sum(n for _, n in step.spans) for step in file.steps()), initial=0))
        self._done = 0

    def done(self) -> int:
        """Bytes in whole pieces; never fewer than the last time, so that a bar does not go back."""
        if self._done < self._after[-1] and self._journal.exists():
            lines = self._journal.read_bytes().count(b"\n")
            self._done = max(self._done, self._after[min(lines, len(self._after) - 1)])
        return self._done


def _submit(errand: Errand) -> Any:
    return ray.remote(run_errand).options(num_cpus=errand.threads, max_retries=RETRIES, name="porter").remote(errand)


def _entry(task: Any, file: PlannedFile) -> dict[str, Any]:
    """What a worker gave, or what it raised, as it would be raised here."""
    try:
        entry: dict[str, Any] = ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, PorterError | OSError):
            raise error.cause from None
        raise PortError(
            f"a worker could not write '{file.name}': {_last_line(error)}",
            "every node needs the same version of porter, and what it needs",
        ) from error
    except RayError as error:
        raise PortError(
            f"a worker was lost while it wrote '{file.name}': {_first_line(error)}",
            "look at that node's memory and logs; the same command goes on where this one stopped",
        ) from None
    return entry


def _cancel(tasks: list[Any]) -> None:
    """Ends the tasks, and waits for it: nothing is written into a folder that has been let go of."""
    for force in (False, True):
        for task in tasks:
            ray.cancel(task, force=force)
        tasks = ray.wait(tasks, num_returns=len(tasks), timeout=PATIENCE, fetch_local=False)[1] if tasks else []


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _last_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[-1]
