"""Which family of models goes through which front end: each is built, lowered and checked, at its config's defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from porter.errors import PorterError
from porter.families import Family, families
from porter.lowering import lower
from porter.package.plan import DTYPES, bind_graph, plan_files
from porter.shape import GROWING, Phase, Shape
from porter.target import Frontend, find_device, frontends
from porter.weights import Weight

SCHEMA_VERSION = 1
LAYERS = 4  # enough for every kind of layer that a family has
FIXED = Shape(1, (16,), (64,))  # where a front end takes nothing else, or not with open sizes

Watch = Callable[[str], None]


def coverage(target: str | None = None, *, watch: Watch = lambda stage: None) -> dict[str, Any]:
    """Every family on every front end, or on those of one target; the result is what `--json` prints.

    `ok`: some of its functions are the vendor's own operators; `expanded`: all of it is operators of the standard;
    `refused`: with the reason. `shape` says for which sizes, where they must be fixed.

    Raises TargetError for an unknown target.
    """
    chosen = find_device(target)[1] if target else frontends()
    rows = []
    for frontend in chosen.values():
        watch(f"lowering for {frontend.name}")
        rows += [_row(family, frontend) for family in families().values()]
    return {"schema_version": SCHEMA_VERSION, "families": list(families()), "frontends": list(chosen), "cells": rows}


def _row(family: Family, frontend: Frontend) -> dict[str, Any]:
    """What becomes of a family: in open sizes where the front end takes such, else in fixed ones."""
    found = {"family": family.name, "frontend": frontend.name, "dtype": frontend.dtypes[0], "assumed": frontend.assumed}
    for shape in (None, FIXED) if frontend.open_sizes else (FIXED,):
        cell = _cell(family, frontend, GROWING if shape is None else shape.phases(gears=False))
        if cell["status"] != "refused":
            break
    return found | {"shape": None if shape is None else str(shape), **cell}


def _cell(family: Family, frontend: Frontend, phases: tuple[Phase, ...]) -> dict[str, Any]:
    try:
        counts = [lower(*_graph(family, frontend, phase))[1] for phase in phases]
    except PorterError as error:
        return {"status": "refused", "reason": error.message, "hint": error.hint}
    total = {key: sum(count[key] for count in counts) for key in counts[0]}
    return {"status": "ok" if total["mapped"] else "expanded", "lowering": total}


def _graph(family: Family, frontend: Frontend, phase: Phase) -> tuple[Any, Frontend]:
    config = family.read({"model_type": family.model_types[0], "num_hidden_layers": LAYERS, **family.config.example})
    network, dtype = family.build(config, "auto"), DTYPES[frontend.dtypes[0]]
    graph = network.build(dtype, phase.sizes)
    weights = [Weight(parameter, ()) for parameter in network.named_parameters()]
    bind_graph(graph, plan_files(weights, dtype), Path())  # to places in files that are never written
    return graph, frontend
