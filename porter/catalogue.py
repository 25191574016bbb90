"""What is known of targets, as `porter targets` tells it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from porter.target import Device, Frontend, Row, devices, find_device

SCHEMA_VERSION = 1


def all_targets() -> dict[str, Any]:
    """Every device with its front ends and variants; the result is what `--json` prints."""
    rows = []
    for name, device in devices().items():
        rows.append(
            {
                "name": name,
                "title": device.title,
                "vendor": device.vendor,
                "frontends": list(device.frontends),
                **_facts(device),
                "variants": {n: _facts(v) for n, v in device.variants.items()},
            }
        )
    return {"schema_version": SCHEMA_VERSION, "targets": rows}


def one_target(name: str) -> dict[str, Any]:
    """One device, variant, or TOML file of one's own, with its front ends, every fact with its source.

    Raises TargetError for an unknown name, and for a mistake in the file.
    """
    device, frontends = find_device(name)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": device.name,
        "title": device.title,
        "vendor": device.vendor,
        **_facts(device),
        "variants": {n: _facts(v) | {"sources": dict(v.sources)} for n, v in device.variants.items()},
        "notes": list(device.notes),
        "sources": dict(device.sources),
        "frontends": [_frontend(frontend) for frontend in frontends.values()],
    }


def _facts(device: Device) -> dict[str, Any]:
    """What is known of a card; null and empty are unknown."""
    return {
        "soc": device.soc,
        "dtypes": list(device.dtypes),
        "memory_bytes": device.memory_bytes,
        "memory_bandwidth": device.memory_bandwidth,
        "rates": dict(device.rates),
        "link": asdict(device.link) if device.link else None,
    }


def _row(row: Row) -> dict[str, Any]:
    """One registration of an operator: the opsets, and the dtypes and ranks that are stated."""
    types = {parameter: sorted(dtypes) for parameter, dtypes in row.types.items()}
    return {"opsets": [list(span) for span in row.opsets], "types": types, "ranks": row.ranks}


def _frontend(frontend: Frontend) -> dict[str, Any]:
    return {
        "name": frontend.name,
        "title": frontend.title,
        "vendor": frontend.vendor,
        "opset": frontend.opset,
        "opset_range": list(frontend.opset_range),
        "ir_version": frontend.ir_version,
        "dtypes": list(frontend.dtypes),
        "shapes": list(frontend.shapes),
        "gears_limit": list(frontend.gears_limit) if frontend.gears_limit else None,
        "minimum_past": frontend.minimum_past,
        "max_rank": frontend.max_rank,
        "max_model_bytes": frontend.max_model_bytes,
        "external_data": frontend.external_data,
        "operators": len(frontend.operators) if frontend.operators is not None else "the ONNX standard",
        "operator_table": {name: [_row(row) for row in rows] for name, rows in (frontend.operators or {}).items()},
        "assumed": frontend.assumed,
        "operator_notes": dict(frontend.operator_notes),
        "custom_operators": sorted(frontend.custom_operators),
        "custom_operator_sources": {name: o.source for name, o in sorted(frontend.custom_operators.items())},
        "mappings": [
            {"function": m.function, "operators": list(m.operators), "when": dict(m.when), "reason": m.reason}
            for m in frontend.mappings
        ],
        "checks": [{"name": c.name, "reason": c.reason, "source": c.source} for c in frontend.checks],
        "compile": asdict(frontend.compile) if frontend.compile else None,
        "notes": list(frontend.notes),
        "sources": dict(frontend.sources),
    }
