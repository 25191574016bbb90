"""porter.json: what a port says of itself, written last and read first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from porter import __version__
from porter.census import census
from porter.errors import PortError
from porter.graph import all_nodes
from porter.model import Model
from porter.package import GRAPH, MANIFEST
from porter.target import Target

SCHEMA_VERSION = 1
DTYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
PARTS = ("graphs", "weights", "files")  # of a manifest: what lists the files of a port
FIELDS = dict.fromkeys(("family", "model_type", "target", "frontend", "dtype"), str) | dict.fromkeys(
    ("minimum_past", "parameters", "active_parameters", "layers", "cache_width"), int
)
ENTRY = {"file": str, "bytes": int, "sha256": str}


@dataclass(frozen=True)
class Port:
    """A port folder that was opened: its manifest and where it lies."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def dtype(self) -> str:
        """The float dtype of the port."""
        return str(self.manifest["dtype"])

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.folder / str(self.manifest["graphs"][0]["file"])


def open_port(folder: Path) -> Port:
    """Opens a port folder. Raises PortError when it is not one, is of another schema, or a file is missing."""
    path = folder / MANIFEST
    if not path.is_file():
        raise PortError(f"'{folder}' is not a port: it has no {MANIFEST}", "make one with `porter convert`")
    try:
        manifest = json.loads(path.read_bytes())
        version = manifest["schema_version"]
        wrong = _wrong_fields(manifest) if version == SCHEMA_VERSION else []
        listed = [str(e["file"]) for part in PARTS for e in manifest[part]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise PortError(f"'{path}' cannot be read: {error}", "convert the checkpoint again") from None
    if version != SCHEMA_VERSION:
        raise PortError(f"'{path}' has schema_version {version}", f"this porter reads {SCHEMA_VERSION}; convert again")
    if wrong:
        raise PortError(f"'{path}' is damaged: {wrong[0]} is missing or makes no sense", "convert the checkpoint again")
    for name in listed:
        if Path(name).name != name or not (folder / name).is_file():
            raise PortError(f"'{folder}' lacks '{name}', which its manifest lists", "convert the checkpoint again")
    return Port(folder, manifest)


def _wrong_fields(manifest: dict[str, Any]) -> list[str]:
    """The fields without which a port cannot be used, where they are missing or not of their kind."""
    wrong = [name for name, kind in FIELDS.items() if not isinstance(manifest.get(name), kind)]
    wrong += ["dtype"] * (manifest.get("dtype") not in DTYPES) + ["graphs"] * (not manifest["graphs"])
    for part in PARTS:
        for n, entry in enumerate(manifest[part]):
            wrong += [f"{part}[{n}].{name}" for name, kind in ENTRY.items() if not isinstance(entry.get(name), kind)]
    return wrong


def describe(
    model: Model, target: Target, dtype: ir.DataType, attention: str, built: ir.Model, lowering: dict[str, int]
) -> dict[str, Any]:
    """The manifest of a port, but for the entries of the files that are yet to be written."""
    forms, sizes = model.family.forms, census(model.network)
    return {
        "schema_version": SCHEMA_VERSION,
        "porter": __version__,
        "family": model.family.name,
        "model_type": model.config.model_type,
        "target": target.name,
        "frontend": target.frontend.name,
        "dtype": next(name for name, d in DTYPES.items() if d == dtype),
        "attention": (forms[0] if attention == "auto" else attention) if forms else None,
        "minimum_past": target.frontend.minimum_past,
        "parameters": sizes.parameters,
        "active_parameters": sizes.active_parameters,
        "layers": sizes.layers,
        "cache_width": sizes.cache_width,
        "graphs": [
            {
                "file": GRAPH,
                "phase": "prefill and decode",
                "inputs": [_value(v) for v in built.graph.inputs],
                "outputs": [_value(v) for v in built.graph.outputs],
                "nodes": sum(1 for _ in all_nodes(built.graph)),
            }
        ],
        "lowering": lowering,
        "source": {"dropped": dict(model.binding.dropped)},
    }


def _value(value: ir.Value) -> dict[str, Any]:
    assert value.dtype is not None
    assert value.shape is not None
    names = {"FLOAT": "float32"}
    shape = [d if isinstance(d, int) else str(d.value) for d in value.shape]
    return {"name": value.name, "dtype": names.get(value.dtype.name, value.dtype.name.lower()), "shape": shape}
