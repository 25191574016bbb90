"""The ranks of a split port as processes of their own, started with torchrun. Calls and results pass through files in a
folder that all of them see; what the ranks exchange does not: that goes from process to process.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from porter.manifest import Port
from porter.verify.ranks import Call
from porter.verify.session import Arrays, BrokenPort

TICK = 0.01  # seconds between two looks into the folder
PATIENCE = 10.0  # seconds that the processes have to end
LOCK, LOG, ROUTE, SCALE, GRAPH = "lock", "log", "route:", "scale", "graph"


class Launched:
    """An `Execute` of processes: they load the port once, and end with this object."""

    def __init__(self, port: Port, against: Path, *, forced: bool, deployed: bool) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="porter-ranks-"))
        self._calls, self._cards = 0, port.cards
        lock = (self._folder / LOCK).open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)  # while it is held there may be calls; the system lets go of it, come what may
        flags = ["--forced"] * forced + ["--deployed"] * deployed
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(port.cards)]
        command += ["-m", "porter.run_ranks", str(port.folder), "--serve", str(self._folder)]
        command += ["--against", str(against), *flags]
        with (self._folder / LOG).open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"OMP_NUM_THREADS": "1", **os.environ}
            )
        self._end = weakref.finalize(self, _end, lock, self._process, self._folder)

    def __call__(self, calls: Sequence[Call]) -> list[Arrays]:
        """All values of each rank. Raises BrokenPort where a process ended, with the last that it said."""
        number, self._calls = self._calls, self._calls + 1
        for rank, call in enumerate(calls):
            write_call(call_file(self._folder, number, rank), call)
        return [self._result(result_file(self._folder, number, rank)) for rank in range(self._cards)]

    def _result(self, path: Path) -> Arrays:
        while not path.exists():
            if self._process.poll() is not None:
                raise BrokenPort(f"a rank ended: {_last_words(self._folder / LOG)}")
            time.sleep(TICK)
        result = read_arrays(path)
        path.unlink()
        return result


def call_file(folder: Path, number: int, rank: int) -> Path:
    """Where a rank finds a call."""
    return folder / f"call-{number}-{rank}.npz"


def result_file(folder: Path, number: int, rank: int) -> Path:
    """Where a rank leaves what it computed."""
    return folder / f"result-{number}-{rank}.npz"


def write_call(path: Path, call: Call) -> None:
    """A call as a file."""
    routes = {f"{ROUTE}{layer}": chosen for layer, chosen in (call.routes or {}).items()}
    write_arrays(path, dict(call.feed) | routes | {SCALE: np.array(call.embedding_scale), GRAPH: np.array(call.graph)})


def read_call(path: Path) -> Call:
    """A call out of a file, which is gone then."""
    arrays = read_arrays(path)
    path.unlink()
    scale, graph = float(arrays.pop(SCALE)), str(arrays.pop(GRAPH))
    routes = {int(name.removeprefix(ROUTE)): arrays.pop(name) for name in list(arrays) if name.startswith(ROUTE)}
    return Call(graph, arrays, routes or None, scale)


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Arrays by name; the file appears whole or not at all."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    fresh.rename(path)


def read_arrays(path: Path) -> Arrays:
    """The same out of a file."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _last_words(log: Path) -> str:
    """What a rank said of its end: the first line of a refusal, or the last of what was printed."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    refusals = [line for line in lines if line.startswith("error: ")]
    return refusals[0].removeprefix("error: ") if refusals else (lines or ["it said nothing"])[-1]


def is_left(folder: Path) -> bool:
    """Whether nobody calls any more."""
    with (folder / LOCK).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _end(lock: BinaryIO, process: subprocess.Popen[bytes], folder: Path) -> None:
    lock.close()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
