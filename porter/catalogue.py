"""What is known of targets, as `porter targets` tells it."""

from __future__ import annotations

from typing import Any

from porter.target import Device, Frontend, devices, find_target, frontends

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
                **_sizes(device),
                "variants": {n: _sizes(v) for n, v in device.variants.items()},
            }
        )
    return {"schema_version": SCHEMA_VERSION, "targets": rows}


def one_target(name: str) -> dict[str, Any]:
    """One device and its front ends, every fact with its source. Raises TargetError for an unknown name."""
    device = find_target(name).device
    return {
        "schema_version": SCHEMA_VERSION,
        "name": device.name,
        "title": device.title,
        "vendor": device.vendor,
        **_sizes(device),
        "variants": {n: _sizes(v) | {"sources": dict(v.sources)} for n, v in device.variants.items()},
        "sources": dict(device.sources),
        "frontends": [_frontend(frontends()[n]) for n in device.frontends],
    }


def _sizes(device: Device) -> dict[str, Any]:
    link = device.link
    return {
        "memory_bytes": device.memory_bytes,
        "memory_bandwidth": device.memory_bandwidth,
        "rates": dict(device.rates),
        "link": {"name": link.name, "bandwidth": link.bandwidth, "topology": link.topology, "cards": link.cards}
        if link
        else None,
    }


def _frontend(frontend: Frontend) -> dict[str, Any]:
    return {
        "name": frontend.name,
        "title": frontend.title,
        "opset": frontend.opset,
        "dtypes": list(frontend.dtypes),
        "minimum_past": frontend.minimum_past,
        "operators": len(frontend.operators) if frontend.operators is not None else "the ONNX standard",
        "custom_operators": sorted(frontend.custom_operators),
        "mappings": [
            {"function": m.function, "operators": list(m.operators), "when": dict(m.when), "reason": m.reason}
            for m in frontend.mappings
        ],
        "checks": [{"name": c.name, "reason": c.reason, "source": c.source} for c in frontend.checks],
        "sources": dict(frontend.sources),
    }
