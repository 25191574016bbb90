"""Reads the TOML of a device."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace
from pathlib import Path

from porter.errors import known_names
from porter.target.data import Device, Link
from porter.target.dtypes import DTYPES, RATES
from porter.target.table import Table

FACTS = ("soc", "dtypes", "memory_bytes", "memory_bandwidth", "rates", "link")


def read_device(path: Path, frontends: Collection[str]) -> Device:
    """A device from its TOML. Raises TargetError for what is missing, unknown or contradictory."""
    table = Table.open(path)
    table.name(path)
    return device_of(table, frontends)


def device_of(table: Table, frontends: Collection[str]) -> Device:
    """A device from its table, wherever that stands. Raises TargetError as `read_device` does."""
    device = _device(table, table.need("name", str))
    for feed in device.frontends:
        if feed not in frontends:
            raise table.refusal("frontends", f"names '{feed}', which is none", known_names(feed, frontends))
    variants = {name: _device(_variant(table, name), name) for name in table.table("variants")}
    return replace(device, variants=variants)


def _device(table: Table, name: str) -> Device:
    table.only(field.name for field in fields(Device))
    return Device(
        name=name,
        title=table.need("title", str),
        vendor=table.need("vendor", str),
        frontends=table.texts("frontends") if table.data.get("frontends") != [] and "frontends" in table else (),
        soc=table.get("soc", str),
        dtypes=_dtypes(table),
        memory_bytes=table.positive("memory_bytes", int),
        memory_bandwidth=table.positive("memory_bandwidth", float),
        rates=_rates(table.table("rates")),
        link=_link(table.table("link")) if "link" in table else None,
        variants={},
        notes=table.texts("notes") if "notes" in table else (),
        sources=table.sources(FACTS),
    )


def _variant(device: Table, name: str) -> Table:
    """Join what the device says of all its variants with what this one says of itself."""
    own = device.table("variants").table(name)
    for key in own:
        if key in device and key != "sources":
            raise own.refusal(key, "is stated for the device too", "what differs belongs to each variant alone")
    sources = {**device.table("sources").data, **own.table("sources").data}
    shared = {key: value for key, value in device.data.items() if key != "variants"}
    return Table(own.where, {**shared, **own.data, "sources": sources})


def _dtypes(table: Table) -> tuple[str, ...]:
    dtypes = table.texts("dtypes") if "dtypes" in table else ()
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise table.refusal("dtypes", f"names '{dtype}', which is no dtype", known_names(dtype, DTYPES))
    return dtypes


def _rates(table: Table) -> dict[str, float]:
    rates = {}
    for dtype in table:
        if dtype not in RATES:
            raise table.refusal(dtype, "is no dtype", known_names(dtype, RATES))
        rates[dtype] = table.positive(dtype, float) or 0.0
    return rates


def _link(table: Table) -> Link:
    table.only(field.name for field in fields(Link))
    link = Link(
        name=table.need("name", str),
        bandwidth=table.positive("bandwidth", float),
        directions=table.get("directions", int),
        topology=table.get("topology", str),
        collectives=table.get("collectives", str),
        cards=table.positive("cards", int),
        between_nodes=table.positive("between_nodes", float),
        latency=table.positive("latency", float),
        latency_between_nodes=table.positive("latency_between_nodes", float),
    )
    if link.directions not in (1, 2, None):
        raise table.refusal("directions", f"is {link.directions}", "1: each way, 2: both ways together")
    return link
