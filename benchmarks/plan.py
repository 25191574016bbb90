"""How long `porter plan` takes for DeepSeek-V3 over five devices, and how many splits it looks at.

Seconds are of a core, which a busy machine does not change.

usage: python benchmarks/plan.py
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = {"model_type": "deepseek_v3", "num_experts_per_tok": 8, "quantization_config": {"quant_method": "fp8"}}
DEVICES = "nvidia-h20,nvidia-h100,ascend-910b3,ascend-910c,moore-threads-s5000"
SECONDS = 2  # what it may take


def main() -> None:
    """Prints the seconds of the whole process, and those of the plan itself."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(CONFIG))
        command = [sys.executable, "-m", "porter", "plan", config, "--target", DEVICES, "--json"]
        done = subprocess.run(command, capture_output=True, check=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        whole = used.ru_utime + used.ru_stime
        from porter.plan import plan

        begun = time.process_time()
        plan(config, DEVICES.split(","))
        own = time.process_time() - begun
    found = json.loads(done.stdout)["candidates"]
    splits, evaluated = (sum(c["searched"][what] for c in found) for what in ("splits", "evaluated"))
    print(f"{len(found)} candidates: {whole:.2f} s (allowed {SECONDS} s), of which the plan {own:.2f} s;", end=" ")
    print(f"{splits} splits, {evaluated} looked at beyond their bound")


if __name__ == "__main__":
    main()
