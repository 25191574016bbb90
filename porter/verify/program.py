"""A program on the device's host that runs a port: docs/runtime.md has the protocol.

It is started once. Each request is a line of JSON on its stdin and each answer one on its stdout; arrays lie in .npz
files; its stderr is for its log, whose last lines are told where it fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import IO, Any

import numpy as np

from porter.errors import ParityError
from porter.verify.runtime import GraphFile, Runtime, Value
from porter.verify.session import Arrays, BrokenPort

PROTOCOL = 1
PATIENCE = 3600.0  # seconds for one answer: to load a large port on a device takes minutes
FAREWELL = 10.0  # seconds to end by itself
LAST, WIDTH = 5, 300  # lines of its log that are told, and how much of each
HINT = "docs/runtime.md has the protocol, samples/runtime programs that keep it"


class Program(Runtime):
    """A program by its command line, which no shell reads. Raises ParityError where it cannot be started, breaks the
    protocol or does not answer.
    """

    def __init__(self, command: str, patience: float = PATIENCE) -> None:
        self.name, self._patience = command, patience
        self._words = _words(command)
        self._calls, self._seconds, self._who = 0, 0.0, ""
        self._watched: bool | None = None  # None: there was nothing to watch
        self._log: deque[str] = deque(maxlen=LAST)
        self._answers: queue.Queue[str | None] = queue.Queue()

    def __enter__(self) -> Program:
        """Starts it."""
        try:
            self._process = subprocess.Popen(
                self._words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # a group of its own, that can be ended as one
            )
        except OSError as error:
            raise ParityError(f"--runtime '{self.name}' cannot be started: {error.strerror}", HINT) from None
        self._folder = tempfile.TemporaryDirectory(prefix="porter-runtime-")
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            Thread(target=self._listen, args=(self._process.stdout,), daemon=True),
            Thread(target=_each_line, args=(self._process.stderr, self._log.append), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Asks it to end where it listens, and ends it with all that it started where it does not."""
        try:
            if kind is not None and not issubclass(kind, BrokenPort):
                self._kill()
            else:
                self._send({"op": "close"})
                self._process.wait(FAREWELL)
        except (OSError, subprocess.TimeoutExpired):
            self._kill()
        finally:
            self._let_go()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _let_go(self) -> None:
        pipes = (self._process.stdout, self._process.stderr)
        for pipe, reader in zip(pipes, self._readers, strict=True):
            reader.join(timeout=1.0)
            if pipe is not None and not reader.is_alive():  # else somebody holds its other end, and closing would wait
                pipe.close()
        with contextlib.suppress(OSError):  # what it has not read
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._folder.cleanup()

    def open(self, graph: GraphFile) -> ProgramGraph:
        """One graph."""
        watching = None
        if graph.watched:
            watching = Path(self._folder.name) / graph.path.name
            watching.write_bytes(graph.watching)
        request = {
            "protocol": PROTOCOL,
            "op": "open",
            "graph": str(graph.path),
            "phase": graph.phase,
            "inputs": [value.to_json() for value in graph.inputs],
            "outputs": [value.to_json() for value in graph.outputs],
            "products": [str(path) for path in graph.products],
            "watched": None if watching is None else str(watching),
            "watch": [value.to_json() for value in graph.watched],
        }
        answer = self.ask(request, "does not load")
        if type(answer.get("session")) is not int:
            raise self.broken(f"answered 'open' without the number of a session: {json.dumps(answer)[:200]}")
        watched = bool(graph.watched) and answer.get("watched") is True
        self._watched = watched if graph.watched else self._watched
        self._who = " ".join(str(answer[key]) for key in ("device", "version") if answer.get(key))
        return ProgramGraph(self, answer["session"], graph, watched)

    def notes(self) -> list[str]:
        """Who computed, and what could not be seen."""
        notes = [f"computed by {self._who or self.name}: {self._calls} calls, {self._seconds:.1f} s of its own"]
        if self._watched is False:
            notes.append("it does not show which experts it chose: a token that went elsewhere counts as an error")
        return notes

    def call(self, session: int, feed: Arrays) -> Path:
        """Runs a graph on arrays as they travel; where its answer lies."""
        self._calls += 1
        given, found = (Path(self._folder.name) / f"{self._calls:06}{end}" for end in (".npz", ".out.npz"))
        np.savez(given, allow_pickle=False, **feed)
        request = {"op": "run", "session": session, "inputs": str(given), "outputs": str(found)}
        answer = self.ask(request, "stops")
        given.unlink()
        seconds = answer.get("seconds")
        self._seconds += seconds if isinstance(seconds, int | float) else 0.0
        return found

    def ask(self, request: dict[str, Any], what: str) -> dict[str, Any]:
        """Its answer to a request. Raises BrokenPort where it says that the port is at fault."""
        try:
            self._send(request)
            line = self._answers.get(timeout=self._patience)
        except OSError:  # it ended and so reads nothing
            line = None
        except queue.Empty:
            message = f"gave no answer to '{request['op']}' within {self._patience:g} s"
            raise self.broken(message) from None
        if line is None:
            raise self.broken(f"ended with {self._ended()} where '{request['op']}' was to be answered")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or type(answer.get("ok")) is not bool:
            message = f"wrote '{line.strip()[:100]}' to stdout, which is no answer; its log belongs on stderr"
            raise self.broken(message)
        if not answer["ok"]:
            raise BrokenPort(f"{self._who or self.name} {what}: {answer.get('error') or 'it does not say why'}")
        return answer

    def broken(self, what: str) -> ParityError:
        """What it did wrong, with the end of its log."""
        self._readers[1].join(timeout=0.5)  # what it wrote last may be on its way
        log = " | ".join(line[:WIDTH] for line in self._log)
        return ParityError(f"--runtime '{self.name}' {what}" + (f"; its log ends: {log}" if log else ""), HINT)

    def _listen(self, stdout: IO[str]) -> None:
        _each_line(stdout, self._answers.put)
        self._answers.put(None)

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _ended(self) -> str:
        try:
            return str(self._process.wait(FAREWELL))
        except subprocess.TimeoutExpired:
            return "its stdout closed"


class ProgramGraph:
    """A graph that the program opened."""

    def __init__(self, program: Program, session: int, graph: GraphFile, watched: bool) -> None:
        self._program, self._session, self._inputs = program, session, graph.inputs
        self._outputs = (*graph.outputs, *(graph.watched if watched else ()))
        self.watched = watched

    def run(self, feed: Arrays) -> Arrays:
        """One call. Raises ParityError where names, dtypes or shapes of the answer are not those asked for."""
        path = self._program.call(self._session, {v.name: feed[v.name].view(v.travels) for v in self._inputs})
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        except Exception as error:  # zipfile, zlib and NumPy raise types of their own
            why = str(error) or type(error).__name__
            raise self._program.broken(f"left no outputs that can be read: {why}") from None
        path.unlink()
        if wrong := next(_wrong(self._inputs, self._outputs, feed, found), None):
            raise self._program.broken(f"answered {wrong}")
        return {value.name: found[value.name].view(value.numpy) for value in self._outputs}


def _words(command: str) -> list[str]:
    """The words of a command line. Raises ParityError where it names no program that there is."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ParityError(f"--runtime '{command}' is no command line: {error}", HINT) from None
    if not words or shutil.which(words[0]) is None:
        message = f"--runtime '{command}' names no program that can be run"
        raise ParityError(message, "give its path, as ./device.sh or 'python3 device.py'")
    return words


def _wrong(inputs: tuple[Value, ...], outputs: tuple[Value, ...], feed: Arrays, found: Arrays) -> Iterator[str]:
    """What is not as it was asked for."""
    names = {value.name for value in outputs}
    if names != found.keys():
        missing, more = sorted(names - found.keys()), sorted(found.keys() - names)
        yield f"without {missing[0]}" if missing else f"with {more[0]}, which was not asked for"
    sizes = {d: n for v in inputs for d, n in zip(v.shape or (), feed[v.name].shape, strict=False)}
    for value in outputs:
        array = found[value.name]
        if array.dtype != value.travels:
            yield f"{value.name} as {array.dtype}, not {value.travels}"
        wanted = None if value.shape is None else [sizes.get(d, d) for d in value.shape]
        if wanted is not None and not _fits(array.shape, wanted):
            yield f"{value.name} as {list(array.shape)}, not {wanted}"


def _fits(shape: tuple[int, ...], wanted: list[int | str]) -> bool:
    """Names that no input has may be any number."""
    return len(shape) == len(wanted) and all(
        isinstance(size, str) or size == n for n, size in zip(shape, wanted, strict=True)
    )


def _each_line(pipe: IO[str], take: Callable[[str], None]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed under it
        for line in pipe:
            take(line.rstrip("\n"))
