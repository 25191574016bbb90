"""The vendor's own command for each graph of a port, and compile.sh, which runs them on the device's host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from porter.shape import Phase
from porter.target import Target
from porter.target.compile import Compile

HEAD = """#!/bin/sh
# Written by porter: the vendor's own way from ONNX to the device.
set -eu
cd "$(dirname "$0")"
"""


@dataclass(frozen=True)
class Step:
    """One graph's command, as a shell takes it, and the files that it writes."""

    graph: str
    command: str
    products: tuple[str, ...]


def recipe(
    target: Target, graphs: Sequence[tuple[Phase, ir.Model]], dtype: str, max_positions: int
) -> tuple[Step, ...]:
    """A step for each graph; none for a front end that takes graphs as they are."""
    wanted = target.frontend.compile
    if wanted is None:
        return ()
    steps = []
    for phase, model in graphs:
        filled = _filled(wanted, target, phase, model, max_positions) | {"dtype": dtype}
        products = tuple(_fill(product, filled) for product in wanted.products)
        steps.append(Step(phase.file, _fill(wanted.command.strip("\n"), filled), products))
    return tuple(steps)


def script(steps: Sequence[Step]) -> str | None:
    """compile.sh; None where there is nothing to be done."""
    return HEAD + "\n".join(step.command for step in steps) + "\n" if steps else None


def _filled(wanted: Compile, target: Target, phase: Phase, model: ir.Model, max_positions: int) -> dict[str, str]:
    """What each placeholder of a command stands for."""
    inputs, least = model.graph.inputs, target.frontend.minimum_past
    gears = ""
    if phase.gears and wanted.gears:
        sizes = (",".join(str(gear[name]) for value in inputs for name in _varying(value)) for gear in phase.gears)
        gears = wanted.gears.rstrip("\n").format(dynamic_dims=";".join(sizes))
    return {
        "model": phase.file,
        "output": phase.file.removesuffix(".onnx"),
        "soc": _soc(target),
        "input_shape": ";".join(f"{v.name}:{','.join(_range(v, least, max_positions))}" for v in inputs),
        "input_shapes": json.dumps([list(v.shape) if v.shape and v.shape.is_static() else [] for v in inputs]),
        "gears": gears,
    }


def _fill(template: str, filled: dict[str, str]) -> str:
    return "\n".join(line.rstrip() for line in template.format(**filled).split("\n"))


def _soc(target: Target) -> str:
    """The chip's name; where several are sold under the device's name, the script asks for it."""
    if target.device.soc is not None:
        return target.device.soc
    known = ", ".join(v.soc for v in target.device.variants.values() if v.soc)
    return f'"${{SOC_VERSION:?set it to your card\'s, one of {known}}}"'


def _varying(value: ir.Value) -> list[str]:
    """The names of the dimensions that are no numbers."""
    assert value.shape is not None
    return [str(d.value) for d in value.shape if not isinstance(d, int)]


def _range(value: ir.Value, minimum_past: int, max_positions: int) -> list[str]:
    """The dimensions, -1 for what may vary, and the range of past places where none at all is not allowed."""
    assert value.shape is not None
    dims = []
    for dimension in value.shape:
        if isinstance(dimension, int):
            dims.append(str(dimension))
        elif str(dimension.value) == "past" and minimum_past:
            dims.append(f"{minimum_past}~{max_positions}")
        else:
            dims.append("-1")
    return dims
