"""compile.sh: the vendor's own command line, ready to run on the device's host."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porter.shape import Phase
from porter.target import Target

HEAD = """#!/bin/sh
# Written by porter: the vendor's own way from model.onnx to the device.
set -eu
cd "$(dirname "$0")"
"""


def recipe(target: Target, graphs: Sequence[tuple[Phase, ir.Model]], max_positions: int) -> str | None:
    """The script, or None for a front end that takes the graph as it is."""
    if target.frontend.compile is None:
        return None
    command = target.frontend.compile.command
    return HEAD + "".join(_filled(command.lstrip("\n"), target, phase, model, max_positions) for phase, model in graphs)


def _filled(command: str, target: Target, phase: Phase, model: ir.Model, max_positions: int) -> str:
    least = target.frontend.minimum_past
    filled = {
        "{model}": phase.file,
        "{output}": phase.file.removesuffix(".onnx"),
        "{soc}": _soc(target),
        "{input_shape}": ";".join(_shape(v, least, max_positions) for v in model.graph.inputs),
    }
    filled["{gears}"] = ""
    for placeholder, text in filled.items():
        command = command.replace(placeholder, text)
    return command


def _soc(target: Target) -> str:
    """The chip's name; where several are sold under the device's name, the script asks for it."""
    if target.device.soc is not None:
        return target.device.soc
    known = ", ".join(v.soc for v in target.device.variants.values() if v.soc)
    return f'"${{SOC_VERSION:?set it to your card\'s, one of {known}}}"'


def _shape(value: ir.Value, minimum_past: int, max_positions: int) -> str:
    """`name:dims` with -1 for what may vary, and the range of past places where none at all is not allowed."""
    assert value.shape is not None
    dims = []
    for dimension in value.shape:
        if isinstance(dimension, int):
            dims.append(str(dimension))
        elif str(dimension.value) == "past" and minimum_past:
            dims.append(f"{minimum_past}~{max_positions}")
        else:
            dims.append("-1")
    return f"{value.name}:{','.join(dims)}"
