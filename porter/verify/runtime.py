"""What runs a port as it is deployed: ONNX Runtime with a provider, or a program on the device's host.

Either opens a graph's file and is then called with arrays. Nothing is widened, emulated or forced: what comes back is
what the hardware computed. Of a port with routers it is asked for one thing more, which experts were chosen: by a copy
of the graph that has these choices as outputs, where it can open one.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir

from porter.errors import PortError
from porter.manifest import Port
from porter.package.files import MANIFEST
from porter.verify.session import CHOSEN, Arrays, blaming_the_port


@dataclass(frozen=True)
class Value:
    """An input or an output: `dtype` by ONNX's name in small letters, in `shape` a number or a name that may vary."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None  # None: of any rank

    @property
    def numpy(self) -> np.dtype[Any]:
        """Of arrays that hold it; narrow floats that NumPy lacks are those of ml_dtypes."""
        return ir.DataType["FLOAT" if self.dtype == "float32" else self.dtype.upper()].numpy()

    @property
    def travels(self) -> np.dtype[Any]:
        """Of the same bits in an .npz file: what NumPy lacks are unsigned integers of its size."""
        dtype = self.numpy
        return dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")

    def to_json(self) -> dict[str, Any]:
        """As a request has it."""
        return {"name": self.name, "dtype": self.dtype, "shape": None if self.shape is None else list(self.shape)}


@dataclass(frozen=True)
class GraphFile:
    """A graph of a port: what it takes and gives, its `products` by the vendor's compiler, and the values that are to
    be `watched`, with a graph that has them as outputs, too, whose weights lie beside the port's own.
    """

    path: Path
    phase: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    products: tuple[Path, ...]
    watched: tuple[Value, ...]
    watching: bytes


class Opened(Protocol):
    """A graph that can be called; `watched` where it gives the watched values, too."""

    watched: bool

    def run(self, feed: Arrays) -> Arrays:
        """One call. Raises BrokenPort where the port does not run there."""


class Runtime(ABC):
    """Opens graphs; a context that it lives in."""

    name: str  # as the verdict calls it

    def __enter__(self) -> Runtime:
        """Ready to open graphs."""
        return self

    def __exit__(  # noqa: B027  # most have nothing to let go of
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Lets go of everything."""

    @abstractmethod
    def open(self, graph: GraphFile) -> Opened:
        """Raises BrokenPort where the port does not load there, ParityError where nothing can be run at all."""

    @abstractmethod
    def notes(self) -> list[str]:
        """What the verdict tells of it."""


def graph_files(port: Port) -> dict[str, GraphFile]:
    """The graphs of a port by their files' names.

    Raises BrokenPort where one cannot be read, PortError where porter.json does not say what they take and give.
    """
    try:
        described = {path: _described(port, path, n) for n, path in enumerate(port.graphs)}
    except (LookupError, TypeError, AttributeError) as error:
        message = f"'{port.folder / MANIFEST}' is damaged: of its graphs {error} is missing or makes no sense"
        raise PortError(message, "convert the checkpoint again") from None
    with blaming_the_port("does not load"):
        return {path.name: GraphFile(path.absolute(), *about, *_watching(path)) for path, about in described.items()}


def _described(
    port: Port, path: Path, number: int
) -> tuple[str, tuple[Value, ...], tuple[Value, ...], tuple[Path, ...]]:
    """What porter.json says of a graph: phase, inputs, outputs, and what it was compiled into."""
    entry = port.manifest["graphs"][number]
    steps = [step for step in port.manifest.get("compiled", []) if step["graph"] == path.name]
    made = {product["file"] for step in steps for product in step["products"]}
    listed = [str(file["file"]) for file in port.manifest["files"] if file["file"] in made]
    inputs, outputs = (tuple(_value(value) for value in entry[side]) for side in ("inputs", "outputs"))
    return str(entry["phase"]), inputs, outputs, tuple(port.folder.absolute() / name for name in listed)


def _value(entry: Mapping[str, Any]) -> Value:
    return Value(str(entry["name"]), str(entry["dtype"]), tuple(entry["shape"]))


def _watching(path: Path) -> tuple[tuple[Value, ...], bytes]:
    """The routers' choices in a graph, and the graph with these as outputs."""
    model = ir.from_proto(onnx.load(path, load_external_data=False))
    chosen = [v for node in model.graph for v in node.outputs if re.fullmatch(CHOSEN, str(v.name))]
    model.graph.outputs.extend(chosen)
    watched = tuple(Value(str(v.name), (v.dtype or ir.DataType.INT64).name.lower(), None) for v in chosen)
    return watched, ir.to_proto(model).SerializeToString()
