"""Converting beside `cp` of the same bytes, both brought to the disk, in turns in one run.

usage: python benchmarks/convert.py [--small] [--rounds N] [--scratch FOLDER] [CASE ...]

The copy and the conversion both end when their bytes are on the disk (fsync); the copy's time without that is told,
too. Every figure is a median over the rounds. Checkpoints and ports are removed when they have been measured: the
largest case holds 35 GB at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from checkpoints import NAMES, make, nbytes

FACTOR, SECONDS = 1.25, 2.0  # a conversion may take so many times what cp takes, and so many seconds more
LEAST_RATE = 0.5  # of the copy's, per byte that is written, where FP8 is decoded
REFERENCE_SECONDS = 2.0
SPARE_BYTES, HELD_TENSORS = 400e6, 2  # memory: so much, and so many times the largest source tensor


@dataclass(frozen=True)
class Case:
    """A checkpoint, how it is converted, and what that may take."""

    name: str
    weights: str = "copy"
    decodes: bool = False


CASES = {
    "same-1gb": Case("llama-1gb"),
    "same-4gb": Case("llama-4gb"),
    "fp8": Case("deepseek-v3-layer", decodes=True),
    "reference": Case("llama-8gb", weights="reference"),
}
SMALL = {
    "same-small": Case("llama-small"),
    "fp8-small": Case("deepseek-v3-small", decodes=True),
    "reference-small": Case("llama-small", weights="reference"),
}


@dataclass(frozen=True)
class Round:
    """Seconds of the copy, of the copy brought to the disk, and of the conversion; bytes of weights; peak memory."""

    copied: float
    synced: float
    converted: float
    written: int
    peak: int


def measure(case: Case, scratch: Path, rounds: int) -> str:
    """A row of the table."""
    checkpoint = scratch / "checkpoint"
    size = make(case.name, checkpoint)
    try:
        found = [one_round(case, checkpoint, scratch) for _ in range(rounds)]
    finally:
        shutil.rmtree(checkpoint)
    copied, synced, converted = (
        statistics.median(seconds) for seconds in zip(*((r.copied, r.synced, r.converted) for r in found), strict=True)
    )
    largest = max(nbytes(tensor) for tensor in NAMES[case.name]()[1])
    cells = [
        f"{case.name}, {case.weights}",
        f"{size / 1e9:.2f} GB",
        f"{copied:.2f} s",
        f"{synced:.2f} s",
        f"{converted:.2f} s",
        *judged(case, size, found[0].written, synced, converted),
        f"{max(r.peak for r in found) / 1e6:.0f} MB",
        f"{(SPARE_BYTES + HELD_TENSORS * largest) / 1e6:.0f} MB",
    ]
    return row(cells)


def judged(case: Case, size: int, written: int, synced: float, converted: float) -> tuple[str, str]:
    """What the conversion is measured by, and what is allowed."""
    if case.weights == "reference":
        return f"{converted:.2f} s", f"{REFERENCE_SECONDS:.2f} s"
    if case.decodes:
        rate, copy = written / converted, size / synced
        return f"{rate / 1e9:.2f} GB/s, {rate / copy:.2f} of cp", f"at least {LEAST_RATE} of cp"
    return f"{size / converted / 1e9:.2f} GB/s, {converted / synced:.2f} x cp", f"{FACTOR * synced + SECONDS:.2f} s"


def one_round(case: Case, checkpoint: Path, scratch: Path) -> Round:
    """Copies and converts once, each from a disk with nothing left to do."""
    copy, port = scratch / "copy", scratch / "port"
    os.sync()
    begun = time.perf_counter()
    subprocess.run(["cp", "-r", checkpoint, copy], check=True)
    copied = time.perf_counter() - begun
    subprocess.run(["sync", *copy.iterdir()], check=True)
    synced = time.perf_counter() - begun
    shutil.rmtree(copy)
    os.sync()
    command = [sys.executable, "-m", "porter", "convert", checkpoint, "--target", "ascend-910b", "--dtype", "bfloat16"]
    to = [checkpoint, "--force"] if case.weights == "reference" else [port]
    begun = time.perf_counter()
    done = subprocess.run(
        [*command, "--weights", case.weights, "--json", "-o", *to], check=True, stdout=subprocess.PIPE
    )
    converted = time.perf_counter() - begun
    result = json.loads(done.stdout)
    shutil.rmtree(port, ignore_errors=True)
    return Round(copied, synced, converted, sum(w["bytes"] for w in result["weights"]), result["peak_rss_bytes"])


def row(cells: list[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints a table in Markdown, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"{', '.join((*CASES, *SMALL))}; all but the small ones"
    )
    parser.add_argument("--small", action="store_true", help="the small ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to measure")
    given = parser.parse_args()
    known = CASES | SMALL
    if unknown := set(given.cases) - set(known):
        parser.error(f"no case is called {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    head = ["checkpoint, weights", "bytes", "cp", "cp and sync", "porter convert", "beside cp and sync", "allowed"]
    head += ["peak memory", "allowed"]
    print(row(head))
    print(row(["---"] * len(head)), flush=True)
    if given.scratch:
        given.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        for name in given.cases or (SMALL if given.small else CASES):
            print(measure(known[name], Path(scratch), given.rounds), flush=True)


if __name__ == "__main__":
    main()
