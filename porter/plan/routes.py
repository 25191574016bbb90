"""Reads what `porter verify --save-routes` wrote: which experts the tokens of somebody's prompts were given."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from porter.errors import CheckpointError, FamilyError
from porter.plan.demand import Demand

FORMAT = 1
HINT = "`porter verify --save-routes` writes such a file"


@dataclass(frozen=True)
class Routes:
    """Of each layer that has routed experts [T, K]; of the port where it told them, else of the original."""

    layers: dict[int, np.ndarray]
    experts: int
    side: str
    prompts: str
    sha256: str

    @property
    def tokens(self) -> int:
        return len(next(iter(self.layers.values())))


def read_routes(path: Path) -> Routes:
    """Raises CheckpointError for a file that cannot be read or does not hold together; nothing in it is run."""
    try:
        whole = path.read_bytes()
        with np.load(io.BytesIO(whole), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError as cause:
        raise CheckpointError(f"{path} cannot be read: {cause.strerror}", HINT) from cause
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as cause:
        raise CheckpointError(f"{path} is no file of routes", HINT) from cause
    side = "port" if "port" in arrays else "original"
    try:
        layers, experts, chosen = arrays["layers"], int(arrays["experts"]), arrays[side]
        form, prompts = int(arrays["format"]), str(arrays["prompts"])
    except (KeyError, TypeError, ValueError) as cause:
        raise CheckpointError(f"{path} is no file of routes", HINT) from cause
    if form != FORMAT:
        raise CheckpointError(f"{path} has format {form}, and this porter reads {FORMAT}", HINT)
    if flaw := _flaw(layers, experts, chosen):
        raise CheckpointError(f"{path}: {flaw}", HINT)
    by_layer = {int(n): chosen[row].astype(np.int64) for row, n in enumerate(layers)}
    return Routes(by_layer, experts, side, prompts, hashlib.sha256(whole).hexdigest())


def _flaw(layers: np.ndarray, experts: int, chosen: Any) -> str | None:
    whole = np.issubdtype(chosen.dtype, np.integer) and np.issubdtype(layers.dtype, np.integer)
    if not whole or layers.ndim != 1 or chosen.ndim != 3 or len(layers) != len(chosen) or not chosen.size:
        return f"routes of shape {chosen.shape} in {chosen.dtype} are none, of layers of shape {layers.shape}"
    if chosen.min() < 0 or chosen.max() >= experts:
        return f"expert {chosen.max()} is none of {experts}"
    if (np.diff(np.sort(chosen, axis=-1).astype(np.int64), axis=-1) == 0).any():
        return "a token was given the same expert twice"
    return None


def check_model(routes: Routes, demand: Demand) -> None:
    """Raises FamilyError where routes are not this model's, or not of all its layers."""
    routed = {n: kind.routed for n, kind in enumerate(demand.layers) if kind.routed}
    if not routed:
        raise FamilyError("the model has no routed experts that could be placed", "leave --routes out")
    top_k = next(iter(routes.layers.values())).shape[1]
    theirs = {(layer.count, layer.top_k) for layer in routed.values()}
    if theirs != {(routes.experts, top_k)}:
        count, chosen = sorted(theirs)[0]
        message = f"the routes choose {top_k} of {routes.experts} experts, the model {chosen} of {count}"
        raise FamilyError(message, "give routes that were recorded of this model")
    if missing := sorted(routed.keys() ^ routes.layers.keys()):
        message = f"the routes are not of the layers that have experts: layer {missing[0]} is only in one of them"
        raise FamilyError(message, "record them of the whole model, without --layers")
