"""Modules and parameters: attribute names are Hugging Face's, so that most weights need no mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from porter.blocks.step import Step
from porter.errors import GraphError
from porter.graph import Graph
from porter.layout import Cut
from porter.quantize import Quantization, Stored

Storage = Literal["port", "float32"]


@dataclass(eq=False)
class Parameter:
    """A weight: its shape, and whether it is stored at the port's dtype or always in float32 (routers).

    `table` holds the content where it is computed from plain numbers instead of read from the checkpoint (RoPE tables).
    """

    shape: tuple[int, ...]
    storage: Storage = "port"
    table: Callable[[], np.ndarray] | None = None
    name: str = ""
    learned: bool = True  # False for what is stored but adjusted by a rule, not trained: no parameter of the model
    quantizable: bool = False  # whether `--quantize` means it, which `quantization` then says how
    quantization: Quantization | None = None
    cut: Cut | None = None  # which part of the whole weight it is, where cards divide it

    def value(self, graph: Graph, dtype: ir.DataType) -> ir.Value:
        """The initializer in `graph` of a weight that is no codes, with `dtype` the port's."""
        (value,) = self.values(graph, dtype)
        return value

    def values(self, graph: Graph, dtype: ir.DataType) -> list[ir.Value]:
        """The initializers in `graph`, one for each stored tensor."""
        return [graph.parameter(*tensor) for tensor in self.stored(dtype)]

    def dtype(self, port: ir.DataType) -> ir.DataType:
        """The type it is stored at in a port of dtype `port`."""
        return ir.DataType.FLOAT if self.storage == "float32" else port

    def stored(self, port: ir.DataType) -> Stored:
        """Name, type and shape of the tensors that it is stored as in a port of dtype `port`."""
        if self.quantization is not None:
            return self.quantization.tensors(self.name, self.shape)
        return ((self.name, self.dtype(port), self.shape),)


class Module:
    """Something with parameters and `forward(step, ...)`; calling it puts its path in front of its nodes' names."""

    path: str = ""
    transparent: bool = False  # a part whose parameters are named as if they were the parent's own
    forward: Callable[..., Any]

    def __call__(self, step: Step, *args: Any) -> Any:
        with step.graph.scope(self.path):
            return self.forward(step, *args)

    def parameters(self, prefix: str = "") -> Iterator[Parameter]:
        """Every parameter below, named by the path of attributes; raises GraphError for modules in a plain list,
        whose parameters would vanish silently.
        """
        self.path = prefix
        for name, item in vars(self).items():
            path = f"{prefix}.{name}" if prefix else name
            if isinstance(item, Parameter):
                item.name = item.name or path
                yield item
            elif isinstance(item, Module):
                yield from item.parameters(prefix if item.transparent else path)
            elif _holds_modules(item):
                raise GraphError(f"{path} is a plain {type(item).__name__} of modules", "use ModuleList")


def _holds_modules(item: object) -> bool:
    held = item.values() if isinstance(item, dict) else item
    return isinstance(held, Iterable) and any(isinstance(x, Module | Parameter) for x in held)


class ModuleList(Module):
    """Numbered modules."""

    def __init__(self, modules: Iterator[Module] | list[Module], start: int = 0) -> None:
        for i, module in enumerate(modules, start):
            setattr(self, str(i), module)

    def __getitem__(self, place: int) -> Any:
        return list(self)[place]

    def __iter__(self) -> Iterator[Any]:
        return (m for m in vars(self).values() if isinstance(m, Module))
