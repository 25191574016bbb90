"""tpu-mlir (Sophgo): model_transform, run_calibration, model_deploy, and the simulator model_runner."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from driver import Arrays, Job, Tool, main

BIN = Path(sys.executable).parent


def run(job: Job) -> Arrays:
    np.savez(job.folder / "inputs.npz", **job.inputs)
    shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in job.graph.input]
    # Without --test_input: its own comparison squares what a mask hides, overflows, and calls it FAILED.
    model = ("--model_name", "m", "--model_def", str(job.model), "--mlir", "m.mlir", "--input_shapes", str(shapes))
    _tool(job, "model_transform", *model)
    calibrated = ["--calibration_table", _calibrate(job)] if job.quantize == "INT8" else []
    _tool(
        job,
        "model_deploy",
        *("--mlir", "m.mlir", "--quantize", job.quantize, "--chip", job.target, "--model", "m.bmodel"),
        *calibrated,
    )
    with (BIN.parent / "simulator.lock").open("w") as lock:  # it links the library of the chip's model into its package
        fcntl.flock(lock, fcntl.LOCK_EX)
        _tool(job, "model_runner", "--input", "inputs.npz", "--model", "m.bmodel", "--output", "simulated.npz")
    with np.load(job.folder / "simulated.npz") as simulated:
        print("simulated:", {name: simulated[name].shape for name in simulated.files})
        return dict(zip(job.output_names, _in_order(job, dict(simulated)), strict=True))


def _in_order(job: Job, simulated: Arrays) -> list[np.ndarray]:
    """The simulator's names are the outputs' with the kind of their last operator, `y_Add`; of a Cast, which it drops,
    with those of the node before. Then the order says which is which.
    """
    rest = dict(simulated)
    found: list[np.ndarray | None] = []
    for name in job.output_names:
        key = next((key for key in rest if key == name or key.rpartition("_")[0] == name), None)
        found.append(None if key is None else rest.pop(key))
    others = iter(rest.values())
    return [next(others) if array is None else array for array in found]


def _calibrate(job: Job) -> str:
    folder = job.folder / "samples"
    folder.mkdir(exist_ok=True)
    for index, sample in enumerate(job.calibration or [job.inputs]):
        np.savez(folder / f"{index}.npz", **sample)
    count = str(len(job.calibration) or 1)
    _tool(job, "run_calibration", "m.mlir", "--dataset", "samples", "--input_num", count, "-o", "table")
    return "table"


def _tool(job: Job, name: str, *arguments: str) -> None:
    print(f"$ {name} {' '.join(arguments)}", flush=True)
    subprocess.run([BIN / name, *arguments], cwd=job.folder, check=True)


if __name__ == "__main__":
    main(
        Tool(
            run=run,
            targets=("bm1684x", "bm1688", "bm1690"),
            quantize=("F32", "F16", "BF16", "INT8"),
            refusals=(
                "Op not support|[Uu]nsupport|not support",
                "error: ",
                r"^\w+(?:Error|Exception): ",
                "AssertionError|Assertion .* failed",
                "could not create a primitive",
            ),
            environment={"PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"},  # its scripts call python3
        )
    )
