"""A conversion as text: what was made, or would be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from porter.render import print_pairs, size


def print_conversion(result: Mapping[str, Any]) -> None:
    """What `porter convert` made, or would make."""
    if result.get("dry_run"):
        _print_foreseen(result)
        return
    lowering, shape = result["lowering"], {"shape": result["shape"]} if result["shape"] else {}
    signed = {"signature": result["signature"]} if result["signature"] else {}
    print_pairs(
        f"port: {escape(result['port'])}",
        {
            "target": f"{result['target']} through {result['frontend']}",
            "family": result["family"] + (f", {result['attention']} attention" if result["attention"] else ""),
            "dtype": f"{result['dtype']}, {result['dtype_reason']}",
            **_quantized(result),
            **shape,
            **_graphs(result),
            "lowering": ", ".join(f"{count} {what}" for what, count in lowering.items()),
            "weights": f"{size(sum(w['bytes'] for w in result['weights']))} in {len(result['weights'])} file(s)",
            "source tensors left out": result["dropped"],
            **signed,
            "time": f"{result['seconds']:.2f} s, peak memory {size(result['peak_rss_bytes'])}",
        },
    )


def _graphs(result: Mapping[str, Any]) -> dict[str, str]:
    """Each graph; of a port for several cards how many there are, and what the cards exchange."""
    if "split" not in result:
        return {"graphs": ", ".join(f"{graph['file']}: {graph['nodes']} nodes" for graph in result["graphs"])}
    split = result["split"]
    parts = ", ".join(f"{name} {split[name]}" for name in ("tp", "ep", "pp") if split[name] > 1)
    return {
        "cards": f"{split['cards']}: {parts}; at most {size(max(r['weight_bytes'] for r in split['ranks']))} on one",
        "graphs": f"{len(result['graphs'])} segments",
        "exchanges": f"{len(split['exchanges'])} in a pass",
    }


def _quantized(result: Mapping[str, Any]) -> dict[str, str]:
    """What became of the weights, where any are codes."""
    if result["quantize"] is None:
        return {}
    left = len(result["left_in_float"])
    return {"weights as codes": result["quantize"] + (f", but for {left} without whole blocks" if left else "")}


def _print_foreseen(result: Mapping[str, Any]) -> None:
    facts = {
        "target": result["target"],
        "family": result["family"],
        "to write": f"{size(result['bytes'])}, weights in {len(result['weights'])} file(s)",
        "free there": size(result["free_bytes"]),
        "peak memory": f"at most {size(result['peak_memory_bytes'])}",
    }
    if result["referenced"]:
        kept = sum(shard["bytes"] for shard in result["referenced"])
        facts["stays where it is"] = f"{size(kept)} in {len(result['referenced'])} shard(s)"
    print_pairs(f"dry run, nothing written: {escape(result['port'])}", facts)
