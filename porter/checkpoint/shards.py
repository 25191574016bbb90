"""Which safetensors files make up a checkpoint, and whether they keep what the index promises."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from porter.checkpoint.files import DAMAGED, listed, read_object, shown
from porter.checkpoint.safetensors import TO_SAFETENSORS, TensorInfo, parse_header
from porter.errors import CheckpointError

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_INDEX_LIMIT = 64 << 20  # at about 100 bytes a tensor, far more than the largest models have
_NUMBERED = re.compile(r"model-[0-9]{1,6}-of-[0-9]{1,6}\.safetensors")
_OF_A_PORT = re.compile(r"weights-[0-9]{5}-of-[0-9]{5}\.safetensors")  # made there by `--weights reference`
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def find_tensors(folder: Path, names: Sequence[str]) -> dict[str, TensorInfo]:
    """Find the shards among the `names` in `folder` and read their headers; the result is sorted by name.

    Raises CheckpointError when shards are missing, damaged, pickles, or disagree with the index.
    """
    if _INDEX not in names:
        return _collect(folder, _without_index(names))
    index = _read_index(folder)
    _check_present(index, names)
    tensors = _collect(folder, set(index.values()))
    _check_index(index, tensors)
    return tensors


def _collect(folder: Path, files: Iterable[str]) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for file in sorted(files):
        for tensor in parse_header(folder / file):
            if tensor.name in found:
                both = f"{shown(found[tensor.name].file.name)} and {shown(file)}"
                hint = "the shards are not of one checkpoint: download them again"
                raise CheckpointError(f"tensor '{shown(tensor.name)}' is in both {both}", hint)
            found[tensor.name] = tensor
    return dict(sorted(found.items()))


def _without_index(names: Sequence[str]) -> list[str]:
    """Return the shards of a folder that has no index."""
    files = [name for name in names if name.endswith(".safetensors") and not name.startswith(".")]
    if _SINGLE in files:
        return [_SINGLE]
    if numbered := [name for name in files if _NUMBERED.fullmatch(name)]:
        _check_full(numbered)
        return numbered
    files = [name for name in files if not _OF_A_PORT.fullmatch(name)] or files
    if len(files) > 1:
        hint = f"add {_INDEX}, or keep the one that is meant"
        raise CheckpointError(f"several safetensors files and no index: {listed(files)}", hint)
    if not files and (pickles := [name for name in names if name.endswith(_PICKLES)]):
        message = f"the weights are pickles, which can run code when loaded: {listed(pickles)}"
        raise CheckpointError(message, TO_SAFETENSORS)
    if not files:
        raise CheckpointError("the folder has no *.safetensors", "put the weights next to config.json")
    return files


def _check_full(names: list[str]) -> None:
    """Check that `names`, such as model-00001-of-00004.safetensors, are all the shards of one set."""
    parts = [name.removesuffix(".safetensors").split("-") for name in names]
    width, total = len(parts[0][1]), parts[0][3]
    expected = [f"model-{n:0{width}}-of-{total}.safetensors" for n in range(1, int(total) + 1)]
    if not set(names) <= set(expected):
        hint = f"keep the shards of one model only, or add {_INDEX}"
        raise CheckpointError(f"the shards are not of one set: {listed(names)}", hint)
    if missing := sorted(set(expected) - set(names)):
        message = f"{len(missing)} of {len(expected)} shards are missing: {listed(missing)}"
        raise CheckpointError(message, "download the missing shards")


def _read_index(folder: Path) -> dict[str, str]:
    """Read which tensor is in which file; a file is a plain name, so nothing outside the folder is opened."""
    index = read_object(folder / _INDEX, _INDEX_LIMIT).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise CheckpointError(f"{_INDEX}: weight_map is not a table from tensor to file", DAMAGED)
    for tensor, file in index.items():
        where = f"{_INDEX}: tensor '{shown(tensor)}'"
        if not isinstance(file, str):
            raise CheckpointError(f"{where} has no file name", DAMAGED)
        if "/" in file or "\\" in file or file == "..":
            raise CheckpointError(f"{where}: the index points outside the folder: '{shown(file)}'", DAMAGED)
        if not file.endswith(".safetensors") or not file.isprintable():
            message = f"{where} is in '{shown(file)}', which is not a safetensors file"
            raise CheckpointError(message, TO_SAFETENSORS)
    return index


def _check_present(index: Mapping[str, str], names: Sequence[str]) -> None:
    tensors = Counter(index.values())
    if missing := sorted(tensors.keys() - set(names)):
        count = sum(tensors[name] for name in missing)
        message = f"{len(missing)} of {len(tensors)} shards are missing ({count} tensors): {listed(missing)}"
        raise CheckpointError(message, "download the missing shards")
    if _SINGLE in names and _SINGLE not in tensors:
        # transformers would load the single file, the index says otherwise: neither choice is a safe one
        message = f"the folder has both {_SINGLE} and an index that does not name it"
        raise CheckpointError(message, f"remove {_SINGLE} or {_INDEX}, whichever is not meant")


def _check_index(index: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> None:
    hint = f"download the shards and {_INDEX} again, from the same revision"
    for name, tensor in tensors.items():
        if name not in index:
            message = f"tensor '{shown(name)}' is in {tensor.file.name} but not in the index"
            raise CheckpointError(message, hint)
    for name, file in index.items():
        if name not in tensors or tensors[name].file.name != file:
            message = f"tensor '{shown(name)}' is not in {file}, where the index has it"
            raise CheckpointError(message, hint)
