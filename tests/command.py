"""The command line as its user meets it: arguments in; exit code, stdout and stderr out."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porter.cli import main

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document

    def refusal(self) -> str:
        """What was refused: two lines on stderr say it, and nothing else is said, least of all by a traceback."""
        assert (self.code, self.out) == (2, ""), self
        error, hint = self.err.splitlines()
        assert error.startswith("error: ")
        assert len(error) > 15
        assert hint.startswith("hint: ")
        assert len(hint) > 10
        return f"{error}\n{hint}"


def run(*arguments: object) -> Outcome:
    """`porter` with these arguments, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with _checkpoints_untouched(arguments), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        else:
            raise AssertionError("the command did not end with an exit code")
    return Outcome(0 if code is None else int(code), out.getvalue(), err.getvalue())


def spawn(*arguments: object, environment: Mapping[str, str] | None = None, program: str = "") -> Outcome:
    """`porter` in a process of its own; `program` is Python to run in its place, with the same arguments."""
    code = ["-c", program] if program else ["-m", "porter"]
    command = [sys.executable, *code, *map(str, arguments)]
    with _checkpoints_untouched(arguments):
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | (environment or {}), cwd=ROOT, check=False
        )
    return Outcome(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def _checkpoints_untouched(arguments: Sequence[object]) -> Iterator[None]:
    """No command ever changes a file of a checkpoint that it is given; a port made inside is added to it."""
    folders = [path for path in map(Path, map(str, arguments)) if (path / "config.json").is_file()]
    checkpoints = [path for path in folders if not (path / "porter.json").exists()]
    before = {path: digests(path) for path in checkpoints}
    yield
    for path in checkpoints:
        assert before[path].items() <= digests(path).items(), f"{path} was changed"


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
