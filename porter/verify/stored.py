"""Reads a checkpoint's tensors for the original, independently of porter's own reader."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from porter.errors import ParityError, first_few

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
WIDE = (torch.bfloat16, torch.float16, torch.float32, torch.float64)

Tensors = dict[str, torch.Tensor]


def tensor_files(folder: Path) -> dict[str, Path]:
    """Which file holds which tensor; which files these are is chosen as transformers does."""
    wanted = {} if (folder / SINGLE).is_file() else _weight_map(folder)
    found: dict[str, Path] = {}
    for shard in sorted(set(wanted.values())) or [SINGLE]:
        with _opened(folder / shard) as file:
            found |= dict.fromkeys(file.keys(), folder / shard)
    _refuse("the index names tensors that no file holds", wanted.keys() - found.keys())
    return found


def read_tensors(files: Mapping[str, Path]) -> Tensors:
    """Map tensors; a file stays mapped for as long as one of its tensors is held."""
    by_file: dict[Path, list[str]] = defaultdict(list)
    for name, path in files.items():
        by_file[path].append(name)
    tensors: Tensors = {}
    for path, names in by_file.items():
        with _opened(path) as file:
            for name in names:
                tensors[name] = file.get_tensor(name)
    return tensors


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as cause:
        raise ParityError(f"{path.name} cannot be read: {cause}", "fetch the checkpoint again") from cause


def _weight_map(folder: Path) -> dict[str, str]:
    try:
        weight_map: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        outside = [shard for shard in weight_map.values() if Path(shard).name != shard]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as cause:
        raise ParityError(
            f"{folder} has no weights to compare with: {cause}", f"{SINGLE} or {INDEX} is needed"
        ) from cause
    _refuse("the index names files outside the checkpoint", outside)
    return weight_map


def drop_unused(files: Mapping[str, Path], layers: int, predictors: int) -> dict[str, Path]:
    """Leave out what no model of transformers has: multi-token-prediction layers and rotary frequencies."""
    index = {name: int(found[1]) for name in files if (found := re.search(r"\.layers\.(\d+)\.", name))}
    _refuse(
        f"the config has {layers} layers, but there are tensors of others",
        [name for name, layer in index.items() if layer >= layers + predictors],
    )
    return {
        name: path
        for name, path in files.items()
        if index.get(name, -1) < layers and not name.endswith("rotary_emb.inv_freq")
    }


def check_tensors(tensors: Tensors) -> None:
    """Refuse what transformers would load without a word, but not as what it is."""
    _refuse(
        "tensors that no upcast gives exactly",
        [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in WIDE],
    )
    # The experts of a layer are stacked in the order of their numbers, whatever these are.
    stacks: dict[tuple[str, str], dict[int, torch.Size]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if found := re.fullmatch(r"(.*\.experts)\.(\d+)\.(.*)", name):
            stacks[found[1], found[3]][int(found[2])] = tensor.shape
    for (stack, kind), shapes in stacks.items():
        count = 1 + max(n for (other, _), these in stacks.items() if other == stack for n in these)
        _refuse("missing experts", [f"{stack}.{n}.{kind}" for n in range(count) if n not in shapes])
        _refuse(
            "experts of different shapes",
            [f"{stack}.{n}.{kind} {tuple(shape)}" for n, shape in shapes.items() if shape != shapes[0]],
        )


def _refuse(what: str, names: Iterable[str]) -> None:
    """Raise when there are names, and show the first few."""
    listed = sorted(names)
    if listed:
        raise ParityError(f"{what}: {first_few(listed, 5)}", "the original needs a complete checkpoint")
