"""porter.json: what a port says of itself, written last and read first."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from porter import __version__
from porter.census import census
from porter.errors import PortError
from porter.graph import all_nodes
from porter.model import Model
from porter.order import Work
from porter.package.files import CHECKPOINT, MANIFEST, PARTS, digest_of, replace_file, to_json
from porter.package.plan import DTYPES
from porter.places import Places
from porter.quantize import FORMS, Quantization
from porter.recipe import Step
from porter.shape import Phase
from porter.target.compile import Compile

SCHEMA_VERSION = 1
FIELDS = dict.fromkeys(("family", "model_type", "target", "frontend", "dtype"), str) | dict.fromkeys(
    ("minimum_past", "parameters", "active_parameters", "layers", "cache_width"), int
)
RANK_FOLDER = r"rank-\d{2,}"
ENTRY = {"file": str, "bytes": int, "sha256": str}


@dataclass(frozen=True)
class FixedSize:
    """Sizes that a graph of a port has, or that are one of its gears."""

    file: str
    batch: int
    sequence: int
    context: int


@dataclass(frozen=True)
class Port:
    """A port folder that was opened: its manifest and where it lies."""

    folder: Path
    manifest: dict[str, Any]
    launched: bool = False  # whether its ranks are to be run as processes of their own

    @property
    def cards(self) -> int:
        """How many cards it is for."""
        return int(self.manifest["split"]["cards"]) if "split" in self.manifest else 1

    @property
    def dtype(self) -> str:
        """The float dtype of the port."""
        return str(self.manifest["dtype"])

    @property
    def quantization(self) -> Quantization | None:
        """The form of the weights that are stored as codes; None where there are none."""
        return Quantization.parse(self.manifest.get("quantize") or "none")

    @property
    def places(self) -> Places | None:
        """Where experts lie, where that is not in the order of their numbers."""
        return self.manifest.get("placement")

    @property
    def graphs(self) -> tuple[Path, ...]:
        """The ONNX files."""
        return tuple(self.folder / str(entry["file"]) for entry in self.manifest["graphs"])

    def fixed_sizes(self) -> list[FixedSize]:
        """The sizes that a port made with `--shape` is for; none where they are open."""
        if self.manifest.get("shape") is None:
            return []
        found = []
        for entry in self._wholes():
            shapes = {value["name"]: value["shape"] for value in entry["inputs"]}
            (batch, sequence), context = shapes["input_ids"], shapes["attention_mask"][1]
            for gear in entry.get("gears", [{}]):
                sizes = batch, gear.get("sequence", sequence), gear.get("context", context)
                found.append(FixedSize(entry["file"], *sizes))
        return found

    def _wholes(self) -> list[dict[str, Any]]:
        """The entries of the graphs; of a port for several cards, whose graphs are cut, what their segments say."""
        if self.cards == 1:
            return list(self.manifest["graphs"])
        inputs = {entry["file"]: entry["inputs"] for entry in self.manifest["graphs"]}
        segments = self.manifest["split"]["ranks"][0]["segments"].items()
        return [{"file": file, "inputs": [v for part in parts for v in inputs[part]]} for file, parts in segments]

    @property
    def context(self) -> int | None:
        """The places of the largest cache of fixed size; None where the cache grows."""
        return max((size.context for size in self.fixed_sizes()), default=None)


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
        if not _is_inside(name) or not (folder / name).is_file():
            raise PortError(f"'{folder}' lacks '{name}', which its manifest lists", "convert the checkpoint again")
    return Port(folder, manifest)


def _is_inside(name: str) -> bool:
    """Whether a file lies in the port, or in the folder of a rank there."""
    folder, _, file = name.rpartition("/")
    return Path(file).name == file and (not folder or re.fullmatch(RANK_FOLDER, folder) is not None)


def take_digests(port: Port) -> Port:
    """The port with every digest known: those of shards that were not read when it was made are taken, and put into its
    manifest where that can be written.
    """
    missing = [e for e in port.manifest["weights"] if e["sha256"] is None]
    if not missing:
        return port
    taken = {e["file"]: digest_of(port.folder / e["file"])["sha256"] for e in missing}
    manifest = json.loads(json.dumps(port.manifest))
    for entry in (*manifest["weights"], *manifest["source"]["files"]):
        if entry["file"] in taken:
            entry["sha256"] = taken[entry["file"]]
    with contextlib.suppress(OSError):  # a port that may not be written to is none the worse
        replace_file(port.folder, MANIFEST, to_json(manifest))
    return Port(port.folder, manifest)


def _wrong_fields(manifest: dict[str, Any]) -> list[str]:
    """The fields without which a port cannot be used, where they are missing or not of their kind."""
    wrong = [name for name, kind in FIELDS.items() if not isinstance(manifest.get(name), kind)]
    wrong += ["quantize"] * (manifest.get("quantize") not in (None, *FORMS))
    wrong += ["dtype"] * (manifest.get("dtype") not in DTYPES) + ["graphs"] * (not manifest["graphs"])
    placed = manifest.get("placement", {})
    lists = isinstance(placed, dict) and all(isinstance(one, list) for one in placed.values())
    wrong += ["placement"] * (not lists or not all(type(n) is int for one in placed.values() for n in one))
    for part in PARTS:
        for n, entry in enumerate(manifest[part]):
            open_digest = part == "weights" and entry.get("of") == CHECKPOINT and entry.get("sha256", "") is None
            kinds = {name: kind for name, kind in ENTRY.items() if name != "sha256" or not open_digest}
            wrong += [f"{part}[{n}].{name}" for name, kind in kinds.items() if not isinstance(entry.get(name), kind)]
    return wrong


def describe(
    work: Work,
    built: Sequence[tuple[Phase, ir.Model]],
    lowering: dict[str, int],
    steps: Sequence[Step],
    written: Sequence[dict[str, Any]],
    shards: Sequence[dict[str, Any]],
    split: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of a port, but for the files that are yet to be written: `written` are the entries of its weight
    files with the source ranges they were made of, `shards` those of the checkpoint's files that the graph points into;
    `split` what is to be said of several cards.
    """
    model, target, attention = work.model, work.target, work.order.attention
    forms, sizes = model.family.forms, census(model.network)
    meant = [p for network in work.networks for p in network.quantizable() if model.quantization]
    return {
        "schema_version": SCHEMA_VERSION,
        "porter": __version__,
        "family": model.family.name,
        "model_type": model.config.model_type,
        "target": target.name,
        "frontend": target.frontend.name,
        "dtype": work.dtype_name,
        "quantize": None if model.quantization is None else str(model.quantization),
        "left_in_float": list(dict.fromkeys(p.name for p in meant if not p.quantization)),
        "attention": (forms[0] if attention == "auto" else attention) if forms else None,
        "shape": None if work.shape is None else str(work.shape),
        "minimum_past": work.minimum_past,
        "parameters": sizes.parameters,
        "active_parameters": sizes.active_parameters,
        "layers": sizes.layers,
        "cache_width": sizes.cache_width,
        **({"split": split} if split else {}),
        **({"placement": model.places} if model.places else {}),
        "graphs": [
            {
                "file": phase.file,
                "phase": phase.name,
                **({"gears": [dict(gear) for gear in phase.gears]} if phase.gears else {}),
                "inputs": [_value(v) for v in port.graph.inputs],
                "outputs": [_value(v) for v in port.graph.outputs],
                "nodes": sum(1 for _ in all_nodes(port.graph)),
            }
            for phase, port in built
        ],
        "lowering": lowering,
        **({"compile": _compile(target.frontend.compile, steps)} if target.frontend.compile else {}),
        "weights": [{"file": e["file"], "bytes": e["bytes"], "sha256": e["sha256"]} for e in written]
        + [{**shard, "of": CHECKPOINT} for shard in shards],
        "source": {
            "files": _source_files(model, written, shards),
            "dropped": dict(model.binding.dropped),
        },
    }


def _compile(wanted: Compile, steps: Sequence[Step]) -> dict[str, Any]:
    """All that `porter compile` needs to know, wherever the port goes."""
    return {
        "tools": list(wanted.tools),
        "version": wanted.version,
        "refusals": list(wanted.refusals),
        "steps": [{"graph": s.graph, "command": s.command, "products": list(s.products)} for s in steps],
    }


def _source_files(
    model: Model, written: Sequence[dict[str, Any]], shards: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The checkpoint's files with the digests of the ranges that were read (`tensor` or `tensor[first:after]`), and of
    the whole where the graph points into it; null until somebody takes it.
    """
    ranges: dict[Path, dict[str, str]] = {file: {} for file in model.checkpoint.files}
    for name, digest in sorted(item for entry in written for item in entry["source"].items()):
        tensor = name if name in model.checkpoint.tensors else name.rpartition("[")[0]
        ranges[model.checkpoint.tensors[tensor].file][name] = digest
    whole = {shard["file"]: {"sha256": shard["sha256"]} for shard in shards}
    return [
        {"file": file.name, "bytes": file.stat().st_size, **whole.get(file.name, {}), "ranges": found}
        for file, found in ranges.items()
    ]


def _value(value: ir.Value) -> dict[str, Any]:
    assert value.dtype is not None
    assert value.shape is not None
    names = {"FLOAT": "float32"}
    shape = [d if isinstance(d, int) else str(d.value) for d in value.shape]
    return {"name": value.name, "dtype": names.get(value.dtype.name, value.dtype.name.lower()), "shape": shape}
