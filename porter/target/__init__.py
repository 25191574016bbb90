"""Targets: a device and the front end that feeds it, found by name in the TOML files under `targets/`, or by path."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from porter.errors import TargetError, known_names
from porter.target.compile import Compile
from porter.target.custom import CustomOperator, OperatorMapping
from porter.target.data import Check, Device, Frontend, Link, Row, Target
from porter.target.device import read_device
from porter.target.folder import shipped
from porter.target.frontend import read_frontend
from porter.target.own import is_path, open_frontend, open_own

__all__ = [
    "Check",
    "Compile",
    "CustomOperator",
    "Device",
    "Frontend",
    "Link",
    "OperatorMapping",
    "Row",
    "Target",
    "devices",
    "find_device",
    "find_target",
    "frontends",
    "is_path",
]


@cache
def devices() -> Mapping[str, Device]:
    """Every device by name: the TOML files under `targets/devices`."""
    known = frontends()
    return {path.stem: read_device(path, known) for path in shipped("devices")}


@cache
def frontends() -> Mapping[str, Frontend]:
    """Every front end by name: the TOML files under `targets/frontends`."""
    return {path.stem: read_frontend(path) for path in shipped("frontends")}


def find_device(name: str) -> tuple[Device, Mapping[str, Frontend]]:
    """The device or variant called `name`, or that of a TOML file, with the front ends that feed it, the first first.

    Raises TargetError for one that is not known, or whose file has a mistake in it.
    """
    if is_path(name):
        return open_own(Path(name), frontends())
    cards = {**devices(), **{n: card for device in devices().values() for n, card in device.variants.items()}}
    if name not in cards:
        hint = f"{known_names(name, cards)}; or the path of a TOML file of your own"
        raise TargetError(f"no target is called '{name}'", hint)
    device = cards[name]
    return device, {feed: frontends()[feed] for feed in device.frontends}


def find_target(name: str, frontend: str | None = None) -> Target:
    """Find the device called `name`, fed by `frontend` or else by the first that the device names."""
    device, feeds = find_device(name)
    if frontend is not None and is_path(frontend):
        return Target(device, open_frontend(Path(frontend)))
    if not feeds:
        message = f"{device.name} has no front end: no way in for ONNX is known, or it is there to be compared with"
        raise TargetError(
            message, f"`porter targets` lists what feeds each device; {device.name}: `porter targets {name}`"
        )
    chosen = next(iter(feeds)) if frontend is None else frontend
    if chosen not in feeds and chosen not in frontends():
        raise TargetError(f"no front end is called '{chosen}'", known_names(chosen, feeds))
    if chosen not in feeds:
        raise TargetError(f"front end '{chosen}' does not feed {device.name}", known_names(chosen, feeds))
    return Target(device, feeds[chosen])
