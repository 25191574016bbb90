"""Targets: a device and the front end that feeds it, found by name among the TOML files under `targets/`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from porter.errors import TargetError, known_names
from porter.target.custom import CustomOperator, OperatorMapping
from porter.target.data import Check, Device, Frontend, Link, Row, Target
from porter.target.device import read_device
from porter.target.frontend import read_frontend

__all__ = [
    "Check",
    "CustomOperator",
    "Device",
    "Frontend",
    "Link",
    "OperatorMapping",
    "Row",
    "Target",
    "devices",
    "find_target",
    "frontends",
]


@cache
def devices() -> Mapping[str, Device]:
    """Every device by name: the TOML files under `targets/devices`."""
    known = frontends()
    return {path.stem: read_device(path, known) for path in _files("devices")}


@cache
def frontends() -> Mapping[str, Frontend]:
    """Every front end by name: the TOML files under `targets/frontends`."""
    return {path.stem: read_frontend(path) for path in _files("frontends")}


def find_target(name: str, frontend: str | None = None) -> Target:
    """Find the device called `name`, fed by `frontend` or else by the first that the device names."""
    device = devices().get(name)
    if device is None:
        raise TargetError(f"no target is called '{name}'", known_names(name, devices()))
    chosen = device.frontends[0] if frontend is None else frontend
    if chosen not in frontends():
        raise TargetError(f"no front end is called '{chosen}'", known_names(chosen, device.frontends))
    if chosen not in device.frontends:
        raise TargetError(f"front end '{chosen}' does not feed {name}", known_names(chosen, device.frontends))
    return Target(device, frontends()[chosen])


def _files(kind: str) -> list[Path]:
    """List the TOML files: below `porter` in an installed wheel, beside it in a source tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "targets", package.parent / "targets"):
        if folder.is_dir():
            return sorted((folder / kind).glob("*.toml"))
    raise TargetError(f"there is no target data in {package}", "install porter again: a folder is missing")
