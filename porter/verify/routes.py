"""Which experts the prompts of a verification hit, kept for `porter plan --routes`: a file of NumPy's, routes.npz.

| array | what it is |
|---|---|
| `format` | 1 |
| `layers` [L] | the layers that have routed experts and were run |
| `experts` | how many each of them has, E |
| `original` [L, T, K] | of each token the experts that the original chose in float64, in ascending order |
| `port` [L, T, K] | those that the port chose at its dtype; absent where a program or device does not tell |
| `counts_original`, `counts_port` [L, E] | how many tokens each expert was given |
| `prompt` [T] | which of the prompts a token is from |
| `model_type`, `prompts` | of the checkpoint; where the prompts are from: bundled, file or original |
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from porter.errors import ParityError
from porter.model import Model
from porter.package.files import replace_file

FORMAT = 1
MEASURED = {"dtype", "distribution"}  # the levels that read prompts

Routes = Mapping[int, np.ndarray]


class Recorder:
    """Takes in what routers choose, batch by batch, to be written into a file."""

    def __init__(self, path: Path, model_type: str, experts: int) -> None:
        self._path, self._model_type, self._experts = path, model_type, experts
        self._original: list[Routes] = []
        self._port: list[Routes] = []

    def add(self, original: Routes, port: Routes) -> None:
        """The next prompts: routes of the original [N, S, K], and [N * S, K] of a port that tells them."""
        self._original.append(original)
        if port:
            self._port.append({n: port[n].reshape(chosen.shape) for n, chosen in original.items()})

    def write(self, source: str) -> str:
        """All of it, of prompts from this source, in one step; says what was written. Raises ParityError where the disk
        does not take it.
        """
        shapes = [next(iter(one.values())).shape for one in self._original]
        lengths = np.concatenate([np.full(count, length) for count, length, _ in shapes])
        arrays: dict[str, Any] = {
            "format": np.int32(FORMAT),
            "layers": np.array(sorted(self._original[0]), np.int32),
            "experts": np.int32(self._experts),
            "prompt": np.repeat(np.arange(len(lengths)), lengths).astype(np.int32),
            "model_type": np.str_(self._model_type),
            "prompts": np.str_(source),
        }
        for name, side in (("original", self._original), ("port", self._port)):
            if side:
                arrays[name] = _stacked(side)
                counts = [np.bincount(chosen.reshape(-1), minlength=self._experts) for chosen in arrays[name]]
                arrays[f"counts_{name}"] = np.stack(counts)
        whole = io.BytesIO()
        np.savez_compressed(whole, **arrays)
        try:
            replace_file(self._path.parent, self._path.name, whole.getvalue())
        except OSError as cause:
            raise ParityError(f"'{self._path}' cannot be written: {cause.strerror}", "choose another place") from cause
        layers, tokens, top_k = arrays["original"].shape
        return f"routes of {tokens} tokens, {top_k} of {self._experts} experts in {layers} layers, are in {self._path}"


def recorder_for(
    path: Path | None, model: Model, levels: Sequence[str], layers: Sequence[int], untouched: Sequence[Path]
) -> Recorder | None:
    """What records the routes of these layers, if a file is named. Raises ParityError, before anything is run, where
    there are none, or the file cannot be written.
    """
    if path is None:
        return None
    if not MEASURED & set(levels):
        raise ParityError("routes are recorded at the dtype and distribution levels", "use --level dtype or all")
    blocks = [layer.mlp for n, layer in enumerate(model.network.model.layers) if n in layers]
    counts = {int(block.experts.gate_up_proj.shape[0]) for block in blocks if hasattr(block, "experts")}
    if not counts:
        raise ParityError("no layer that is run has experts to choose from", "leave --save-routes out")
    if path.suffix != ".npz":
        raise ParityError(f"--save-routes '{path.name}' is no .npz", "routes are arrays of NumPy: name it FILE.npz")
    if path.is_dir() or not path.parent.is_dir():
        raise ParityError(f"'{path}' cannot be written", "name a file in a folder that is there")
    for folder in untouched:
        if folder.resolve() in path.resolve().parents:
            raise ParityError(f"'{path}' lies in {folder}", "that folder stays as it is: take another")
    return Recorder(path, model.config.model_type, max(counts))


def _stacked(side: Sequence[Routes]) -> np.ndarray:
    """[L, T, K], each token's experts in ascending order."""
    layers = [np.concatenate([one[n].reshape(-1, one[n].shape[-1]) for one in side]) for n in sorted(side[0])]
    return np.sort(np.stack(layers), axis=-1).astype(np.uint16)
