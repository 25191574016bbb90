"""nncase (Canaan K230): compiles to a kmodel and runs Canaan's simulator.

`--target k230` puts nothing on the KPU unless it quantizes; in float32 its kmodel is the CPU's.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from driver import Arrays, Job, Tool, main

SITE = Path(sysconfig.get_path("purelib"))


def run(job: Job) -> Arrays:
    import nncase  # type: ignore[import-not-found]  # only in the toolchain's environment

    options = nncase.CompileOptions()
    options.target, options.dump_dir = job.target, str(job.folder)
    compiler = nncase.Compiler(options)
    compiler.import_onnx(job.model.read_bytes(), nncase.ImportOptions())
    if job.quantize != "F32":
        samples = job.calibration or [job.inputs]
        quantization = nncase.PTQTensorOptions()
        quantization.calibrate_method = "NoClip"
        quantization.quant_type = {"INT8": "uint8", "INT16": "int16"}[job.quantize]
        quantization.w_quant_type = "uint8"
        quantization.samples_count = len(samples)
        quantization.set_tensor_data([[sample[name] for sample in samples] for name in job.input_names])
        compiler.use_ptq(quantization)
    compiler.compile()
    kmodel = compiler.gencode_tobytes()
    (job.folder / "model.kmodel").write_bytes(kmodel)
    print(f"kmodel: {len(kmodel)} bytes, modules {[name for name in ('k230', 'stackvm') if name.encode() in kmodel]}")
    simulator = nncase.Simulator()
    simulator.load_model(kmodel)
    for index, name in enumerate(job.input_names):
        simulator.set_input_tensor(index, nncase.RuntimeTensor.from_numpy(job.inputs[name]))
    simulator.run()
    return {name: simulator.get_output_tensor(index).to_numpy() for index, name in enumerate(job.output_names)}


if __name__ == "__main__":
    main(
        Tool(
            run=run,
            targets=("cpu", "k230"),
            quantize=("F32", "INT8", "INT16"),
            refusals=(
                "Not Supported Onnx op",
                "NotSupportedException",
                "Only The Expr Have CheckedType",
                "Unhandled exception",
                "[A-Za-z]+Exception:",
                "RuntimeError",
                "Process terminated",
            ),
            environment={
                "DOTNET_ROOT": str(SITE / "dnv/net/runtime/.net"),
                "DOTNET_ROLL_FORWARD": "Major",  # nncase asks for .NET 7, the runtime is 8
                "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1",
                "NNCASE_PLUGIN_PATH": str(SITE / "nncase/modules/kpu"),
                "PATH": f"{SITE}{os.pathsep}{os.environ.get('PATH', '')}",  # where the simulator of the KPU lies
            },
        )
    )
