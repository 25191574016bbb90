"""Rewrites of a neutral graph for one front end: a file each, named by the front end's TOML, run in its order."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

import onnx_ir as ir

from porter.target import Frontend


class Pass(ir.passes.InPlacePass):
    """A pass for one front end; a module of this package offers its own as PASS."""

    def __init__(self, frontend: Frontend) -> None:
        super().__init__()
        self.frontend = frontend


@cache
def passes() -> Mapping[str, type[Pass]]:
    """Every pass by name: the modules of this package that declare PASS."""
    modules = {i.name: importlib.import_module(f"{__name__}.{i.name}") for i in pkgutil.iter_modules(__path__)}
    return {name: module.PASS for name, module in modules.items() if hasattr(module, "PASS")}
