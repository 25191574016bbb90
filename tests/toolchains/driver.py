"""What every driver has in common: the command line, the child process that may abort, and the reading of its log.

DRIVER MODEL.onnx INPUTS.npz OUTPUTS.npz [--target T] [--quantize Q] [--calibration MORE.npz …] [--limit SECONDS]

Exit code 0 says that the tool took the graph and OUTPUTS has what its simulator computed; 1 that it refused, with its
reason in a line `refused: …`. The whole log is kept in OUTPUTS.log. Runs under the Python of the toolchain, 3.10 too.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx

Arrays = dict[str, np.ndarray]
INSIDE = "PORTER_TOOLCHAIN_INSIDE"  # set where this is the child


@dataclass(frozen=True)
class Job:
    """One static graph for one tool, in a folder for what the tool writes."""

    model: Path
    graph: onnx.GraphProto
    inputs: Arrays
    calibration: list[Arrays]
    target: str
    quantize: str
    folder: Path

    @property
    def input_names(self) -> list[str]:
        return [value.name for value in self.graph.input]

    @property
    def output_names(self) -> list[str]:
        return [value.name for value in self.graph.output]


@dataclass(frozen=True)
class Tool:
    """How one toolchain is called and what its log says."""

    run: Callable[[Job], Arrays]
    targets: Sequence[str]  # the first is what runs if none is named
    quantize: Sequence[str]
    refusals: Sequence[str]  # expressions of lines that mean a refusal, whatever the exit code; the telling ones first
    environment: Mapping[str, str]


def main(tool: Tool) -> NoReturn:
    """Runs the tool in a child process, since some abort instead of raising; judges by its exit code and its text."""
    arguments = _arguments(tool)
    if INSIDE in os.environ:
        _inside(tool, arguments)
        raise SystemExit(0)
    environment = {**os.environ, **tool.environment, INSIDE: "1", "PYTHONUNBUFFERED": "1"}
    arguments.outputs.unlink(missing_ok=True)
    log = arguments.outputs.with_suffix(".log")
    with log.open("w") as kept:
        child = subprocess.Popen(
            [sys.executable, *sys.argv],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that the tools it calls end with it
        )
        assert child.stdout is not None
        watch = threading.Timer(arguments.limit, os.killpg, (child.pid, signal.SIGKILL))
        watch.start()
        for raw in child.stdout:
            line = raw.decode(errors="replace")
            print(line, end="", flush=True)
            kept.write(line)
    code, text = child.wait(), log.read_text()
    expired = not watch.is_alive()
    watch.cancel()
    reason = f"no end after {arguments.limit} s" if expired else refusal(tool.refusals, text)
    if code or reason or not arguments.outputs.exists():
        arguments.outputs.unlink(missing_ok=True)
        print(f"refused: {reason or _last_words(text, code)}")
        raise SystemExit(1)
    raise SystemExit(0)


def refusal(expressions: Sequence[str], text: str) -> str | None:
    """The first line that the most telling expression finds, without colours and bars of progress."""
    plain = re.sub(r"[^\n]*it/s\]|\r", "\n", re.sub(r"\x1b\[[0-9;]*m", "", text))
    for expression in expressions:
        if found := re.search(f"^.*(?:{expression}).*$", plain, re.MULTILINE):
            return found.group().strip()
    return None


def _arguments(tool: Tool) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("--target", default=tool.targets[0], choices=tool.targets)
    parser.add_argument("--quantize", default=tool.quantize[0], choices=tool.quantize)
    parser.add_argument("--calibration", type=Path, nargs="+", default=[])
    parser.add_argument("--limit", type=float, default=600)
    return parser.parse_args()


def _inside(tool: Tool, arguments: argparse.Namespace) -> None:
    folder = arguments.outputs.with_suffix(".work").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path, given, wanted = (p.resolve() for p in (arguments.model, arguments.inputs, arguments.outputs))
    calibration = [_arrays(path) for path in arguments.calibration]
    os.chdir(folder)  # where some leave dumps of their own
    model = onnx.load(str(path))  # 1.14 finds external data by a string only
    if has_external_data(path):
        path = folder / "embedded.onnx"
        onnx.save(model, str(path))
        print(f"weights embedded in {path.name}: {path.stat().st_size} bytes")
    outputs = tool.run(
        Job(path, model.graph, _arrays(given), calibration, arguments.target, arguments.quantize, folder)
    )
    np.savez(wanted, **outputs)


def has_external_data(path: Path) -> bool:
    graph = onnx.load(str(path), load_external_data=False).graph
    return any(weight.data_location == onnx.TensorProto.EXTERNAL for weight in graph.initializer)


def _arrays(path: Path) -> Arrays:
    with np.load(path) as arrays:
        return dict(arrays)


def _last_words(text: str, code: int) -> str:
    words = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing said")
    return words if code >= 0 else f"killed by {signal.Signals(-code).name}: {words}"
