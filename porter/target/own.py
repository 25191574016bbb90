"""A target of the user's own: a TOML file given by its path, with front ends inside it, beside it, or porter's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

from porter.errors import TargetError
from porter.target.data import Device, Frontend
from porter.target.device import FACTS as DEVICE_FACTS
from porter.target.device import device_of
from porter.target.frontend import FACTS as FRONTEND_FACTS
from porter.target.frontend import KEYS, LIKE, frontend_of
from porter.target.table import Table

INLINE = "frontend"  # front ends inside a device's file: [frontend], or [[frontend]] for several

NOT_GIVEN = "not given"
PLAIN_IR_VERSION = 8  # of ONNX 1.12, the first release with the opset that porter writes
PASSES = ("lower", "respell", "set_opset")
KNOWN_OPERATORS = {"name": "known-operators", "reason": "its table does not have it", "source": NOT_GIVEN}

ONLY_FRONTENDS = {*KEYS, LIKE} - {field.name for field in fields(Device)}


def is_path(name: str) -> bool:
    """Whether a target or front end is called by a path: names of shipped ones have neither."""
    return name.endswith(".toml") or "/" in name or os.sep in name


def open_own(path: Path, shipped: Mapping[str, Frontend]) -> tuple[Device, Mapping[str, Frontend]]:
    """The device of the file and the front ends that feed it; a front end alone feeds a device of unknown facts.

    Raises TargetError with the file and the key for every mistake in it.
    """
    table = Table.open(path)
    if any(key in table for key in ONLY_FRONTENDS):
        frontend = frontend_of(_filled(table))
        return _unknown(frontend), {frontend.name: frontend}
    inline = _inline(table)
    named = table.texts("frontends") if table.data.get("frontends") else ()
    for name in named:
        if name in inline:
            raise table.refusal("frontends", f"names '{name}', which is inside the file too", "leave one out")
    beside = {name: found for name in named if (found := _beside(path, name)) is not None}
    known = {**shipped, **beside, **inline}
    data = {key: value for key, value in table.data.items() if key != INLINE}
    if inline:
        data["frontends"] = [*inline, *named]
    data = {"title": data.get("name"), "vendor": "unknown", **data}
    device = device_of(_with_sources(Table(table.where, data), DEVICE_FACTS), known)
    return device, {name: known[name] for name in device.frontends}


def open_frontend(path: Path) -> Frontend:
    """A front end that is called by its path, whatever its file is called."""
    return frontend_of(_filled(Table.open(path)))


def _filled(table: Table) -> Table:
    """A front end as its owner wrote it, with what is left out as the plainest reader of ONNX would have it.

    What porter ships says all of this, and where it was read; of one's own nobody is asked for a source.
    """
    if LIKE in table.only({*KEYS, LIKE}):
        return table  # it has all that the other says
    opset = table.need("opset", int)
    plain = {
        "title": table.data.get("name"),
        "vendor": "unknown",
        "opset_range": [opset, opset],
        "opset_rule": "since_version",
        "ir_version": PLAIN_IR_VERSION,
        "dtypes": ["float32"],
        "minimum_past": 0,
        "shapes": ["dynamic", "static"],
        "passes": list(PASSES),
        "check": [KNOWN_OPERATORS],
    }
    return _with_sources(Table(table.where, {**plain, **table.data}), FRONTEND_FACTS)


def _with_sources(table: Table, facts: Iterable[str]) -> Table:
    """The table with a source for every fact that is stated."""
    given = dict(table.table("sources").data)
    sources = {fact: given.pop(fact, NOT_GIVEN) for fact in facts if fact in table}
    variants = {
        name: _with_sources(table.table("variants").table(name), facts).data for name in table.table("variants")
    }
    more: dict[str, object] = {"variants": variants} if variants else {}
    return Table(table.where, {**table.data, "sources": {**given, **sources}, **more})


def _inline(table: Table) -> dict[str, Frontend]:
    found = table.data.get(INLINE)
    tables = [table.table(INLINE)] if isinstance(found, dict) else table.tables(INLINE)
    frontends: dict[str, Frontend] = {}
    for one in tables:
        frontend = frontend_of(_filled(one))
        if frontend.name in frontends:
            raise one.refusal("name", f"'{frontend.name}' stands there twice", "two front ends have two names")
        frontends[frontend.name] = frontend
    return frontends


def _beside(path: Path, name: str) -> Frontend | None:
    if is_path(name):
        raise TargetError(f"{path}: frontends names '{name}', a path", "write the name; its file lies beside this one")
    for folder in (path.parent, path.parent.parent / "frontends"):
        if (folder / f"{name}.toml").is_file() and not (folder / f"{name}.toml").samefile(path):
            return open_frontend(folder / f"{name}.toml")
    return None


def _unknown(frontend: Frontend) -> Device:
    return Device(
        name=frontend.name,
        title=f"a device of which nothing is known but its way in, {frontend.title}",
        vendor=frontend.vendor,
        frontends=(frontend.name,),
        soc=None,
        dtypes=(),
        memory_bytes=None,
        memory_bandwidth=None,
        rates={},
        link=None,
        variants={},
        notes=(),
        sources={},
    )
