"""The story of a conversion."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from porter.errors import PortError
from porter.executors import find_executor
from porter.lowering import lower
from porter.manifest import SCHEMA_VERSION, describe
from porter.order import Order, Work, work_out
from porter.package.execute import cores, memory_needed
from porter.package.files import CHECKPOINT, MANIFEST, SIGNATURE, digest_of, to_json, write_file
from porter.package.folder import SPARE_BYTES, Destination, free_bytes, new_folder
from porter.package.plan import bind_graph, parse_size, point
from porter.package.reference import clone, refuse_links
from porter.partition import part
from porter.places import read_places
from porter.recipe import recipe, script
from porter.shape import Phase
from porter.sign import Signer

Watch = Callable[[str, int, int], None]  # stage, bytes done, bytes in all


def convert(
    folder: Path,
    target_name: str,
    output: Path,
    *,
    dtype: str = "auto",
    attention: str = "auto",
    frontend: str | None = None,
    weights: str = "copy",
    quantize: str = "none",
    shard_size: str = "4GiB",
    shape: str | None = None,
    tp: int = 1,
    ep: int = 1,
    pp: int = 1,
    placement: Path | None = None,
    executor: str = "local",
    force: bool = False,
    jobs: int | None = None,
    digests: bool = False,
    sign: Path | None = None,
    dry_run: bool = False,
    watch: Watch = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Converts a checkpoint for a target and writes the port folder; the result is what `--json` prints.

    Raises a PorterError before anything is written for what can be foreseen. Interrupted, or stopped by a full disk,
    the same call goes on where it stopped; the port appears whole or not at all.
    """
    begun = time.monotonic()
    rest = parse_size(shard_size), shape, tp, ep, pp, read_places(placement, ep)
    order = Order(folder, target_name, frontend, dtype, attention, weights, quantize, *rest)
    write_files, signer = find_executor(executor), Signer(sign) if sign else None
    inside = _is_inside(order, output)
    to = Destination(output, force, inside)
    to.clear_up()
    to.refuse()
    watch("reading config.json and headers", 0, 0)
    work = work_out(order)
    built, lowering, split = _lowered(work, output, watch)
    graphs = {phase.file: ir.to_proto(model).SerializeToString(deterministic=True) for phase, model in built}
    steps = recipe(work.target, built, work.dtype_name, work.model.config.max_position_embeddings)
    extras = (*(("compile.sh",) if steps else ()), *((SIGNATURE,) if signer else ()))
    to = replace(to, names=(*graphs, *(f.name for f in work.files), *extras))
    to.refuse()
    refuse_links(work.shards())
    size = sum(map(len, graphs.values()))
    if dry_run:
        return _foreseen(work, to, size, jobs or cores())
    with new_folder(to, work.parameters(tuple(graphs.values())), work.new_bytes + size) as partial:
        _prepare(work, partial, inside)
        entries = write_files(work, partial, jobs, lambda done: watch("writing weights", done, work.new_bytes))
        shards = _shard_entries(work, digests or signer is not None, watch)
        manifest = describe(work, built, lowering, steps, entries, shards, split)
        for entry in manifest["graphs"]:
            entry |= write_file(partial, entry["file"], graphs[entry["file"]])
        manifest["files"] = _carry(work, partial, inside) + _script(partial, script(steps))
        _seal(partial, manifest, signer, output.name)
    more = {"signature": SIGNATURE if signer else None, "dtype_reason": work.dtype_reason}
    return _result(output, manifest, time.monotonic() - begun) | more


Lowered = tuple[Sequence[tuple[Phase, ir.Model]], dict[str, int], dict[str, Any] | None]


def _lowered(work: Work, output: Path, watch: Watch) -> Lowered:
    """The graph of each phase, all of one set of weights, and what became of their functions together; of a port for
    several cards the segments of all, and what the manifest says of them.
    """
    watch("building the graph", 0, 0)
    if work.ranks:
        parted = part(work, output)
        return parted.segments, parted.lowering, parted.split
    found, report = [], Counter[str]()
    for phase in work.phases:
        graph = work.model.network.build(work.dtype, phase.sizes)
        bind_graph(graph, work.files, output)
        for reference in work.references:
            point(graph, reference.place, reference.file.name, output)
        model, counts = lower(graph, work.target.frontend)
        found.append((phase, model))
        report.update(counts)
    return found, dict(report), None


def _prepare(work: Work, folder: Path, inside: bool) -> None:
    """What must be there before weights are written: clones of shards, folders of ranks."""
    for shard in () if inside else work.shards():
        clone(shard, folder / shard.name)
    for rank in work.ranks:
        (folder / rank.folder).mkdir(exist_ok=True)


def _shard_entries(work: Work, digests: bool, watch: Watch) -> list[dict[str, Any]]:
    """What the manifest says of the shards that the graph points into; they are read only when digests are wanted."""
    if digests and work.shards():
        watch("taking the shards' digests", 0, 0)
    return [
        digest_of(shard) if digests else {"file": shard.name, "bytes": shard.stat().st_size, "sha256": None}
        for shard in work.shards()
    ]


def _carry(work: Work, folder: Path, inside: bool) -> list[dict[str, Any]]:
    """The config and tokenizer files: copied, or listed where they lie."""
    files = work.model.checkpoint.carried_files()
    if inside:
        return [{**digest_of(file), "of": CHECKPOINT} for file in files]
    return [write_file(folder, file.name, file.read_bytes()) for file in files]


def _seal(folder: Path, manifest: dict[str, Any], signer: Signer | None, name: str) -> None:
    """Writes the manifest, and signs it where that is wanted."""
    write_file(folder, MANIFEST, to_json(manifest))
    (folder / SIGNATURE).unlink(missing_ok=True)  # of a run that was cut short
    if signer:
        signer.sign(folder, manifest, name)


def _script(folder: Path, text: str | None) -> list[dict[str, Any]]:
    """compile.sh, which may be run; no file where there is no script."""
    if text is None:
        return []
    entry = write_file(folder, "compile.sh", text.encode())
    (folder / "compile.sh").chmod((folder / "compile.sh").stat().st_mode | 0o111)
    return [entry]


def _is_inside(order: Order, output: Path) -> bool:
    """Whether the port goes into the checkpoint's own folder. Raises PortError where it must not."""
    source, port = order.checkpoint.resolve(), output.resolve()
    if source == port and order.weights == "reference":
        return True
    if source == port or port in source.parents or source in port.parents:
        raise PortError(
            f"'{output}' and the checkpoint '{order.checkpoint}' lie in one another",
            "the checkpoint is never written to: choose another folder",
        )
    return False


def _foreseen(work: Work, to: Destination, graph_bytes: int, jobs: int) -> dict[str, Any]:
    """What `--dry-run` tells: nothing is written."""
    needed, free, peak = work.new_bytes + graph_bytes + SPARE_BYTES, free_bytes(to.output), _peak()
    return {
        "schema_version": SCHEMA_VERSION,
        "dry_run": True,
        "port": str(to.output),
        "target": work.target.name,
        "family": work.model.family.name,
        "quantize": None if work.model.quantization is None else str(work.model.quantization),
        "weights": [{"file": f.name, "bytes": f.size()} for f in work.files],
        "referenced": [{"file": s.name, "bytes": s.stat().st_size} for s in work.shards()],
        "bytes": needed,
        "free_bytes": free,
        "fits": free >= needed,
        "peak_memory_bytes": peak + memory_needed(len(work.files), jobs),
        "peak_rss_bytes": peak,
    }


def _result(output: Path, manifest: dict[str, Any], seconds: float) -> dict[str, Any]:
    keys = (
        "target",
        "frontend",
        "family",
        "model_type",
        "dtype",
        "quantize",
        "left_in_float",
        "attention",
        "shape",
        "minimum_past",
        "graphs",
        "weights",
        "lowering",
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "port": str(output),
        **{key: manifest[key] for key in keys},
        **({"split": manifest["split"]} if "split" in manifest else {}),
        "dropped": len(manifest["source"]["dropped"]),
        "seconds": round(seconds, 3),
        "peak_rss_bytes": _peak(),
    }


def _peak() -> int:
    """The most memory that this process has held so far, in bytes."""
    with contextlib.suppress(OSError):
        if found := re.search(rb"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_bytes(), re.MULTILINE):
            return int(found[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB but there
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale  # on Linux it begins with that of the parent
