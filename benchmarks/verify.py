"""What `porter verify` costs beside the passes of the original in float64 that it needs, and in how little memory.

usage: python benchmarks/verify.py [--large] [--scratch FOLDER]

The first table: whole verdicts at the semantics level over the time spent in the original's float64 passes, in one run.
With --large: 30 GB of weights within 6 GB. Where the machine lets us (Linux, control groups, root), the kernel holds
verify to that, files that it maps and pages that it reads included; a process that needs more is killed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoints import make

from porter.port import convert
from porter.verify import verify
from porter.verify.part import Part

TIMES = 3.0  # the float64 passes' own time: what a verdict may take
GROUP = Path("/sys/fs/cgroup/memory/porter-benchmark")
LIMIT = 6 * 10**9


def timed(spent: list[float]) -> Callable[..., Any]:
    """Part.run, which adds up what it spends in float64."""
    run = Part.run

    def watched(part: Part, *args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        found = run(part, *args, **kwargs)
        if part.precision == "float64":
            spent.append(time.perf_counter() - begun)
        return found

    return watched


def ratio(name: str, scratch: Path) -> str:
    """One line: seconds of a verdict, of the passes, and one over the other."""
    make(name, scratch / name, trained=True)
    convert(scratch / name, "ascend-910b", scratch / "port", dtype="float32")
    spent: list[float] = []
    run, Part.run = Part.run, timed(spent)  # type: ignore[method-assign]
    try:
        begun = time.perf_counter()
        found = verify(scratch / "port", scratch / name, levels=["semantics"])
        seconds = time.perf_counter() - begun
    finally:
        Part.run = run  # type: ignore[method-assign]
    passes = f"{len(spent)} passes in float64 {sum(spent):.1f} s"
    return f"{name}: {found.status}, {seconds:.1f} s, {passes}: {seconds / sum(spent):.2f} times (goal {TIMES:g})"


def within(command: list[object]) -> subprocess.CompletedProcess[str]:
    """Runs a command, held to LIMIT where that can be."""
    line = [str(part) for part in command]
    if GROUP.parent.is_dir():
        GROUP.mkdir(exist_ok=True)
        (GROUP / "memory.limit_in_bytes").write_text(str(LIMIT))
        (GROUP / "memory.max_usage_in_bytes").write_text("0")
        line = ["sh", "-c", f'echo $$ > {GROUP}/cgroup.procs && exec "$@"', "sh", *line]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def larger_than_memory(scratch: Path) -> str:
    """30 GB of weights, verified within 6."""
    checkpoint = scratch / "llama-30gb"
    size = make("llama-30gb", checkpoint, trained=True)
    convert(checkpoint, "ascend-910b", checkpoint, dtype="bfloat16", weights="reference")
    begun = time.perf_counter()
    verdict = [sys.executable, "-m", "porter", "verify", checkpoint, "--against", checkpoint]
    done = within([*verdict, "--level", "semantics", "--memory", "6GB", "--fresh", "--json"])
    seconds = time.perf_counter() - begun
    if done.returncode not in (0, 1):
        return f"{size / 1e9:.1f} GB: exit code {done.returncode}\n{done.stderr[-2000:]}"
    found = json.loads(done.stdout)
    held = GROUP / "memory.max_usage_in_bytes"
    peak = f"peak {int(held.read_text()) / 1e9:.2f} GB of {LIMIT / 1e9:g}" if held.is_file() else "not held to it"
    return f"{size / 1e9:.1f} GB of weights: {found['status']}, {seconds:.0f} s, {peak}; {'; '.join(found['notes'])}"


def main() -> None:
    """Prints the lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="30 GB of weights, too: an hour on two cores")
    parser.add_argument("--scratch", type=Path, help="where checkpoints are made, for the time of the run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        print(ratio("llama-250m", Path(scratch)), flush=True)
    if given.large:
        with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
            print(larger_than_memory(Path(scratch)))


if __name__ == "__main__":
    main()
