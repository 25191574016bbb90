"""ascendnpu-ir (Huawei): BiSheng IR's front and middle end. It makes no device code and no numbers: OUTPUTS is empty.

What is accepted got from ONNX through torch-mlir to operators with names. That is advice: CANN's ATC goes another way.
The text that is read is written here, as torch-mlir's own importer writes it, so that a refusal may be this file's.
"""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from driver import Arrays, Job, Tool, main
from onnx import TensorProto, helper, numpy_helper

OPT = Path(sysconfig.get_path("purelib")) / "ascendnpuir" / "bin" / "bishengir-opt"
STEPS = ("--torch-onnx-to-torch-backend-pipeline", "--torch-backend-to-named-op-backend-pipeline")
ELEMENTS = {
    TensorProto.FLOAT: "f32",
    TensorProto.FLOAT16: "f16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT64: "si64",
    TensorProto.INT32: "si32",
    TensorProto.INT8: "si8",
    TensorProto.UINT8: "ui8",
    TensorProto.BOOL: "i1",
}


def run(job: Job) -> Arrays:
    inferred = onnx.shape_inference.infer_shapes(onnx.load(job.model), strict_mode=True, data_prop=True)
    text = job.folder / "model.mlir"
    text.write_text("\n".join(lines(inferred)) + "\n")
    for number, step in enumerate(STEPS):
        result = job.folder / f"step-{number}.mlir"
        print(f"$ bishengir-opt {step}", flush=True)
        subprocess.run([OPT, text, step, "-o", result], check=True)
        text = result
    return {}


def lines(model: onnx.ModelProto) -> Iterator[str]:
    """The model as text of torch-mlir, every operator by its ONNX name."""
    graph = model.graph
    kinds = {value.name: _kind(value) for value in [*graph.input, *graph.value_info, *graph.output]}
    kinds.update({weight.name: _tensor_kind(weight) for weight in graph.initializer})
    names = {value.name: f"%arg{index}" for index, value in enumerate(graph.input)}
    arguments = ", ".join(f"{names[value.name]}: {kinds[value.name]}" for value in graph.input)
    results = ", ".join(kinds[value.name] for value in graph.output)
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    meta = f"torch.onnx_meta.ir_version = {model.ir_version} : si64, torch.onnx_meta.opset_version = {opset} : si64"
    yield f"func.func @main({arguments}) -> ({results}) attributes {{{meta}}} {{"
    yield "  %none = torch.constant.none"
    names[""] = "%none"
    kinds[""] = "!torch.none"
    for weight in graph.initializer:
        names[weight.name] = f"%{len(names)}"
        value = f"torch.onnx.value = {_dense(weight)}"
        yield f'  {names[weight.name]} = torch.operator "onnx.Constant"() {{{value}}} : () -> {kinds[weight.name]}'
    for node in graph.node:
        outputs = [name for name in node.output if name]
        names.update({name: f"%{len(names) + place}" for place, name in enumerate(outputs)})
        attributes = ", ".join(f"torch.onnx.{attribute.name} = {_attribute(attribute)}" for attribute in node.attribute)
        yield (
            f'  {", ".join(names[name] for name in outputs)} = torch.operator "onnx.{node.op_type}"'
            f"({', '.join(names[name] for name in node.input)}) {{{attributes}}} : "
            f"({', '.join(kinds[name] for name in node.input)}) -> ({', '.join(kinds[name] for name in outputs)})"
        )
    yield f"  return {', '.join(names[value.name] for value in graph.output)} : {results}"
    yield "}"


def _kind(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    return _vtensor([d.dim_value for d in tensor.shape.dim], tensor.elem_type)


def _tensor_kind(tensor: TensorProto) -> str:
    return _vtensor(list(tensor.dims), tensor.data_type)


def _vtensor(shape: list[int], element: int) -> str:
    return f"!torch.vtensor<[{','.join(map(str, shape))}],{ELEMENTS[element]}>"


def _dense(tensor: TensorProto) -> str:
    array = numpy_helper.to_array(tensor)
    kind = f"tensor<{''.join(f'{size}x' for size in array.shape)}{ELEMENTS[tensor.data_type]}>"
    if array.dtype == np.bool_:
        return f"dense<{str(array.tolist()).lower()}> : {kind}"
    return f'dense<"0x{array.tobytes().hex().upper()}"> : {kind}'


def _attribute(attribute: onnx.AttributeProto) -> str:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return _dense(value)
    if isinstance(value, bytes):
        return f'"{value.decode()}"'
    if isinstance(value, (int, float)):
        return f"{value} : {'f32' if isinstance(value, float) else 'si64'}"
    if isinstance(value, list):
        return f"[{', '.join(f'{item} : si64' for item in value)}]"
    raise ValueError(f"attribute {attribute.name} of kind {attribute.type}: graphs within graphs are not written")


if __name__ == "__main__":
    main(
        Tool(
            run=run,
            targets=("any",),
            quantize=("F32",),
            refusals=("error: ", r"^\w+(?:\.\w+)*(?:Error|Exception): "),
            environment={},
        )
    )
