"""The story of a conversion."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from porter import __version__
from porter.errors import PortError, TargetError, known_names
from porter.graph import inferred
from porter.manifest import DTYPES, SCHEMA_VERSION, describe
from porter.model import understand
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
from porter.target import Frontend, find_target

Watch = Callable[[str, int, int], None]  # stage, bytes done, bytes in all


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
        manifest = describe(model, target, port_dtype, attention, built, lowering)
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
