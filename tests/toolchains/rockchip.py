"""rknn-toolkit2 (Rockchip): compiles to a .rknn and runs Rockchip's simulator.

Its exit code says little: what the NPU cannot do is a line of the log, and the build goes on.
"""

from __future__ import annotations

import numpy as np
from driver import Arrays, Job, Tool, main


def run(job: Job) -> Arrays:
    from rknn.api import RKNN  # type: ignore[import-not-found]  # only in the toolchain's environment

    rknn = RKNN(verbose=False)
    precision = {"INT8": {"quantized_dtype": "w8a8"}, "INT16": {"quantized_dtype": "w16a16i_dfp"}}.get(job.quantize, {})
    _done("config", rknn.config(target_platform=job.target, **precision) or 0)
    _done("load_onnx", rknn.load_onnx(model=str(job.model)))
    dataset = _dataset(job) if precision else None
    _done("build", rknn.build(do_quantization=bool(precision), dataset=dataset))
    _done("export_rknn", rknn.export_rknn(str(job.folder / "model.rknn")))
    _done("init_runtime", rknn.init_runtime())
    inputs = [job.inputs[name] for name in job.input_names]
    outputs = rknn.inference(inputs=inputs, data_format=["nchw"] * len(inputs))
    if outputs is None:
        raise RuntimeError("inference gave nothing")
    return dict(zip(job.output_names, outputs, strict=True))


def _done(step: str, code: int) -> None:
    if code:
        raise RuntimeError(f"{step} returned {code}")


def _dataset(job: Job) -> str:
    lines = []
    for index, sample in enumerate(job.calibration or [job.inputs]):
        paths = [job.folder / f"sample-{index}-{place}.npy" for place in range(len(job.input_names))]
        for name, path in zip(job.input_names, paths, strict=True):
            np.save(path, sample[name])
        lines.append(" ".join(map(str, paths)))
    listing = job.folder / "dataset.txt"
    listing.write_text("\n".join(lines) + "\n")
    return str(listing)


if __name__ == "__main__":
    main(
        Tool(
            run=run,
            targets=("rk3588", "rk3576", "rk3562"),
            quantize=("F16", "INT8", "INT16"),
            refusals=(
                "No lowering found",
                "[Uu]nsupport|not support",
                "will cause the graph to be a dynamic graph",
                # the first of these exceptions is said of every model
                r"^E (?!RKNN: .*Unkown op target: 0$|rknn-toolkit2 version|.*Traceback)",
                r"^\w+(?:Error|Exception): ",
            ),
            environment={},
        )
    )
