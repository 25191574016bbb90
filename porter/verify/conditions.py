"""What must hold before anything is compared: all is installed, the two belong together, the port is whole."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from porter.census import census
from porter.errors import ParityError
from porter.manifest import Port
from porter.model import Model
from porter.verify.report import Check, Level

NEEDED = ("onnxruntime", "torch", "transformers")


def check_related(port: Port, model: Model) -> None:
    """Raises ParityError for a checkpoint of another family or other sizes: there is nothing to compare then."""
    sizes = census(model.network)
    pairs = {"family": model.family.name, "parameters": sizes.parameters, "layers": sizes.layers}
    for name, theirs in (pairs | {"cache_width": sizes.cache_width}).items():
        if port.manifest[name] != theirs:
            message = f"the port has {name.replace('_', ' ')} {port.manifest[name]}, the checkpoint {theirs}"
            raise ParityError(message, "give the checkpoint that the port was made from")


def unfit(port: Port, model: Model, levels: Sequence[str]) -> list[Level]:
    """The levels that run the port, failed, where it is damaged; raises ParityError where nothing can be run."""
    from porter.verify.weights import damage

    check_installed(levels[0])
    harm = damage(port, model)
    check = Check.at_most("damage for which the port was not run", len(harm), 0, ", ".join(harm[:5]))
    return [Level(name, (check,)) for name in levels] if harm else []


def check_installed(level: str) -> None:
    """Raises ParityError where what a level needs is not there."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ParityError(
            f"the {level} level needs {', '.join(missing)}", "pip install 'porter[verify]', or --level weights"
        )


def check_free(folder: Path | None, levels: Sequence[str]) -> None:
    """Raises ParityError where a folder that is to be written is there already, or would never be written."""
    if folder is None:
        return
    check_installed("semantics")
    if "semantics" not in levels:
        raise ParityError("blocks are looked at where semantics fails", "use --level semantics or all")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParityError(f"'{folder}' is there already", "name a new folder, or empty this one")
