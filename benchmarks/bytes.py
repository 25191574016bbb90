"""What a byte costs on its way from checkpoint to port, step by step: seconds of a core and of the clock for a GiB.

usage: python benchmarks/bytes.py [--scratch FOLDER]

Everything that convert does with a byte that stays what it is, alone and with nothing else running: these sums bound
what convert can reach. In chunks of 4 MiB; medians of five rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

GIB, CHUNK = 2**30, 2**22
ROUNDS = 5


def steps(folder: Path) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    chunk = np.frombuffer(mmap.mmap(-1, CHUNK), np.uint8)  # begins with a page, as direct writing wants it
    source, fresh = folder / "source", folder / "fresh"
    source.write_bytes(bytes(GIB))

    def digest() -> None:
        found = hashlib.sha256()
        for _ in range(GIB // CHUNK):
            found.update(chunk)

    def read() -> None:
        with source.open("rb", buffering=0) as file:
            while os.preadv(file.fileno(), [np.empty(CHUNK, np.uint8)], file.tell()):
                file.seek(CHUNK, os.SEEK_CUR)

    def write(flag: int) -> None:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | flag)
        for start in range(0, GIB, CHUNK):
            os.pwrite(descriptor, chunk.data, start)
        os.fsync(descriptor)
        os.close(descriptor)

    found: dict[str, Callable[[], object]] = {
        "SHA-256": digest,
        "reading from the cache": read,
        "writing through the cache, and fsync": lambda: write(0),
    }
    if direct := getattr(os, "O_DIRECT", 0):
        found["writing past it, and fsync"] = lambda: write(direct)
    return found


def measure(step: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a core, and of the clock."""
    cores, clock = [], []
    for _ in range(ROUNDS):
        os.sync()
        begun, busy = time.perf_counter(), time.process_time()
        step()
        cores.append(time.process_time() - busy)
        clock.append(time.perf_counter() - begun)
    return statistics.median(cores), statistics.median(clock)


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to measure")
    with tempfile.TemporaryDirectory(dir=parser.parse_args().scratch) as folder:
        print("| a GiB of | seconds of a core | seconds |\n| --- | --- | --- |")
        for name, step in steps(Path(folder)).items():
            print("| {} | {:.2f} | {:.2f} |".format(name, *measure(step)), flush=True)


if __name__ == "__main__":
    main()
