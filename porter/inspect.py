"""What a checkpoint or a port is: architecture, sizes, bytes, cache, operators."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from porter.census import census
from porter.errors import PortError
from porter.graph import all_nodes
from porter.manifest import SCHEMA_VERSION, Port, open_port
from porter.model import Model, understand
from porter.package.files import MANIFEST, digest_of

CACHE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "F32": 4, "F16": 2, "BF16": 2}

CARDS = ("tp", "ep", "pp", "cards")


def inspect(path: Path) -> dict[str, Any]:
    """What is known of a checkpoint folder or a port folder; the result is what `--json` prints.

    Raises CheckpointError, FamilyError or PortError.
    """
    return _port(open_port(path)) if (path / MANIFEST).exists() else _checkpoint(understand(path))


def _checkpoint(model: Model) -> dict[str, Any]:
    sizes, stored = census(model.network), Counter[str]()
    for tensor in model.checkpoint.tensors.values():
        stored[tensor.dtype] += tensor.nbytes
    # FP8 is a form of weights only: what is computed and cached is bfloat16
    dtype = model.checkpoint.dtype if model.checkpoint.dtype in CACHE_BYTES else "BF16"
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "checkpoint",
        "path": str(model.checkpoint.folder),
        "family": model.family.name,
        "model_type": model.config.model_type,
        "parameters": sizes.parameters,
        "active_parameters": sizes.active_parameters,
        "layers": sizes.layers,
        "dtype": model.checkpoint.dtype,
        "quantization": model.source.quantized.title or None,
        "bytes": stored.total(),
        "bytes_by_dtype": {d: stored[d] for d in sorted(stored)},
        "cache_bytes_per_token_per_layer": sizes.cache_width * CACHE_BYTES[dtype],
        "cache": {e.name: {"heads": e.heads, "width": e.width} for e in model.network.cache()[0]},
        "max_positions": model.config.max_position_embeddings,
        "attention_forms": list(model.family.forms),
        "dropped": len(model.binding.dropped),
    }


def _leads(rank: dict[str, Any]) -> bool:
    """Whether it is the first card of its stage: all of them have the same operators."""
    return bool(rank["tp"] == rank["ep"] == 0)


def _port(port: Port) -> dict[str, Any]:
    manifest, operators, phases = port.manifest, Counter[str](), []
    led = {
        file
        for rank in manifest.get("split", {}).get("ranks", [])
        if _leads(rank)
        for file in next(iter(rank["segments"].values()))
    }
    for path, entry in zip(port.graphs, manifest["graphs"], strict=True):
        if digest_of(path)["sha256"] != entry["sha256"]:
            raise PortError(f"'{path}' was changed since it was written", "convert the checkpoint again")
        graph = ir.from_proto(onnx.load(path, load_external_data=False)).graph
        found = Counter(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in all_nodes(graph))
        phases.append({"file": entry["file"], "phase": entry["phase"], "nodes": found.total()})
        operators = operators + found if entry["file"] in led else operators or found
    split = {"split": {name: manifest["split"][name] for name in CARDS}} if led else {}
    copied = (
        "family",
        "model_type",
        "target",
        "frontend",
        "dtype",
        "quantize",
        "attention",
        "shape",
        "parameters",
        "active_parameters",
        "layers",
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "port",
        "path": str(port.folder),
        **{key: manifest.get(key) for key in copied},  # an older porter wrote fewer of them
        **split,
        "bytes": sum(e["bytes"] for e in manifest["weights"]),
        "cache_bytes_per_token_per_layer": manifest["cache_width"] * CACHE_BYTES[manifest["dtype"]],
        "graphs": phases,
        "nodes": sum(operators.values()),
        "nodes_per_layer": round(sum(operators.values()) / manifest["layers"], 1),
        "operators": dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
    }
