"""What `porter convert --dry-run` takes on DeepSeek-V3 in full: 163 shards with true headers, and holes for numbers.

usage: python benchmarks/deepseek_v3_folder.py [--scratch FOLDER]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from checkpoints import make

SECONDS, BYTES = 60, 1_500_000_000  # what it may take


def dry_run(checkpoint: Path, output: Path) -> dict[str, Any]:
    """What porter foresees; the port does not fit on most disks, which is exit code 2 and no less of an answer."""
    command = [sys.executable, "-m", "porter", "convert", checkpoint, "--target", "ascend-910b", "--dtype", "bfloat16"]
    # it may well end with exit code 2: a port of that size does not fit on many disks, and that is told, too
    done = subprocess.run([*command, "-o", output, "--dry-run", "--json"], capture_output=True, check=False)
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def main() -> None:
    """Prints seconds and peak memory beside what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, help="where the folder is made, for the time of the run")
    with tempfile.TemporaryDirectory(dir=parser.parse_args().scratch) as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        size = make("deepseek-v3", checkpoint, sparse=True)
        shards = len(list(checkpoint.glob("*.safetensors")))
        begun = time.perf_counter()
        foreseen = dry_run(checkpoint, Path(scratch) / "port")
        seconds = time.perf_counter() - begun
    peak = foreseen["peak_rss_bytes"]
    print(f"dry run of {size / 1e9:.0f} GB in {shards} shards: {seconds:.1f} s (allowed {SECONDS} s),", end=" ")
    print(f"peak memory {peak / 1e6:.0f} MB (allowed {BYTES / 1e6:.0f} MB)")
    print(f"foreseen: {foreseen['bytes'] / 1e9:.0f} GB in {len(foreseen['weights'])} weight files,", end=" ")
    print(f"at most {foreseen['peak_memory_bytes'] / 1e6:.0f} MB of memory while converting")


if __name__ == "__main__":
    main()
