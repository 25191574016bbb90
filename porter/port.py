"""The story of a conversion, and of opening what it made."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from porter import __version__
from porter.blocks.decoder import Decoder
from porter.census import census
from porter.checkpoint import Checkpoint, open_checkpoint
from porter.errors import PortError, TargetError, known_names
from porter.families import Family, family_of
from porter.families._config import DecoderConfig
from porter.graph import all_nodes, inferred
from porter.package import (
    GRAPH,
    MANIFEST,
    bind_graph,
    digest_of,
    new_folder,
    plan_files,
    refuse_output,
    to_json,
    write_file,
    write_weights,
)
from porter.passes import passes
from porter.passes.checks import check
from porter.passes.lower import Lower
from porter.recipe import recipe
from porter.target import Frontend, Target, find_target
from porter.weights import Binding, Piece, Source, bind

SCHEMA_VERSION = 1
DTYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
PARTS = ("graphs", "weights", "files")  # of a manifest: what lists the files of a port
FIELDS = dict.fromkeys(("family", "model_type", "target", "frontend", "dtype"), str) | dict.fromkeys(
    ("minimum_past", "parameters", "active_parameters", "layers", "cache_width"), int
)
ENTRY = {"file": str, "bytes": int, "sha256": str}

Watch = Callable[[str, int, int], None]  # stage, bytes done, bytes in all


@dataclass(frozen=True)
class Model:
    """A checkpoint understood: its family, its config, its network, and every weight bound."""

    checkpoint: Checkpoint
    family: Family
    config: DecoderConfig
    network: Decoder
    source: Source
    binding: Binding


def understand(folder: Path, attention: str = "auto") -> Model:
    """Opens a checkpoint and binds its network strictly; nothing is computed and no weight is read.

    Raises CheckpointError or FamilyError.
    """
    checkpoint = open_checkpoint(folder)
    family = family_of(checkpoint.config)
    source = Source(checkpoint)
    config = _as_stored(family.read(checkpoint.config), source)
    network = family.build(config, attention)
    binding = bind(network.named_parameters(), family.weights(config), family.drops(config), source)
    return Model(checkpoint, family, config, network, source, binding)


def convert(
    folder: Path,
    target_name: str,
    output: Path,
    *,
    dtype: str = "auto",
    attention: str = "auto",
    frontend: str | None = None,
    force: bool = False,
    watch: Watch = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Converts a checkpoint for a target and writes the port folder; the result is what `--json` prints.

    Raises a PorterError before anything is written for what can be foreseen, and leaves nothing behind for the rest.
    """
    begun = time.monotonic()
    target = find_target(target_name, frontend)
    _keep_apart(folder, output)
    refuse_output(output, force)
    port_dtype = _port_dtype(dtype, target.frontend)
    watch("reading config.json and headers", 0, 0)
    model = understand(folder, attention)
    watch("building the graph", 0, 0)
    graph = model.network.build(port_dtype)
    files = plan_files(model.binding, port_dtype)
    bind_graph(graph, files, output)
    built, lowering = lower(graph, target.frontend)

    total = sum(f.size() for f in files)
    with new_folder(output, total, force) as partial:
        done = 0

        def progress(count: int) -> None:
            nonlocal done
            done += count
            watch("writing weights", done, total)

        weights = [write_weights(partial, f, model.source, progress) for f in files]
        manifest = _manifest(model, target, port_dtype, attention, built, lowering)
        manifest["weights"] = weights
        manifest["graphs"][0] |= write_file(partial, GRAPH, ir.to_proto(built).SerializeToString(deterministic=True))
        manifest["files"] = [write_file(partial, f.name, f.read_bytes()) for f in model.checkpoint.carried_files()]
        script = recipe(target, built, model.config.max_position_embeddings)
        if script is not None:
            manifest["files"].append(write_file(partial, "compile.sh", script.encode()))
            (partial / "compile.sh").chmod((partial / "compile.sh").stat().st_mode | 0o111)
        watch("taking the checkpoint's digests", 0, 0)
        manifest["source"]["files"] = [digest_of(f) for f in model.checkpoint.files]
        write_file(partial, MANIFEST, to_json(manifest))
    return _result(output, manifest, time.monotonic() - begun)


def lower(graph: ir.Graph, frontend: Frontend) -> tuple[ir.Model, dict[str, int]]:
    """Runs the front end's passes and checks; gives the model and what became of its functions.

    Raises TargetError for an operator that the front end does not take, or a rule that is broken.
    """
    model = ir.Model(graph, ir_version=frontend.ir_version, producer_name="porter", producer_version=__version__)
    report: dict[str, int] = {}
    for name in frontend.passes:
        if name not in passes():
            raise TargetError(f"{frontend.name}: no pass is called '{name}'", known_names(name, passes()))
        step = passes()[name](frontend)
        step(model)
        if isinstance(step, Lower):
            report = step.report(model)
    check(inferred(model), frontend)
    return model, report


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


def _as_stored(config: DecoderConfig, source: Source) -> DecoderConfig:
    """Tied embeddings with an output projection of its own on disk: transformers ties them only when they are equal."""
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if not config.tie_word_embeddings or not {head, embedding} <= source.names():
        return config
    shapes = source.shape(head), source.shape(embedding)
    pairs = zip(source.rows(Piece(head, shapes[0])), source.rows(Piece(embedding, shapes[1])), strict=False)
    same = shapes[0] == shapes[1] and all(np.array_equal(a.view(np.uint8), b.view(np.uint8)) for a, b in pairs)
    return config if same else dataclasses.replace(config, tie_word_embeddings=False)


def _port_dtype(name: str, frontend: Frontend) -> ir.DataType:
    chosen = frontend.dtypes[0] if name == "auto" else name
    if chosen not in frontend.dtypes:
        raise TargetError(f"{frontend.name} takes no port in {chosen}", f"known: auto, {', '.join(frontend.dtypes)}")
    return DTYPES[chosen]


def _keep_apart(folder: Path, output: Path) -> None:
    source, port = folder.resolve(), output.resolve()
    if source == port or port in source.parents or source in port.parents:
        raise PortError(
            f"'{output}' and the checkpoint '{folder}' lie in one another",
            "the checkpoint is never written to: choose another folder",
        )


def _manifest(
    model: Model, target: Target, dtype: ir.DataType, attention: str, built: ir.Model, lowering: dict[str, int]
) -> dict[str, Any]:
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


def _result(output: Path, manifest: dict[str, Any], seconds: float) -> dict[str, Any]:
    keys = (
        "target",
        "frontend",
        "family",
        "model_type",
        "dtype",
        "attention",
        "minimum_past",
        "graphs",
        "weights",
        "lowering",
    )
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB on Linux
    return {
        "schema_version": SCHEMA_VERSION,
        "port": str(output),
        **{key: manifest[key] for key in keys},
        "dropped": len(manifest["source"]["dropped"]),
        "seconds": round(seconds, 3),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale,
    }
