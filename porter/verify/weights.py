"""Level one: every byte of every weight against the checkpoint it came from. No model is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from porter.checkpoint import TensorInfo, parse_header
from porter.errors import CheckpointError, first_few
from porter.manifest import Port, take_digests
from porter.model import Model
from porter.package.files import CHECKPOINT, PARTS, digest_of
from porter.package.plan import DTYPES, SAFETENSORS, Place
from porter.package.reference import reference
from porter.source import Ledger
from porter.verify.cards import cards_of
from porter.verify.report import Check, Level
from porter.weights import Weight, content


@dataclass(frozen=True)
class Found:
    """A weight as the port holds it: the file and the places of the tensors that it is stored as."""

    file: Path
    places: tuple[Place, ...]


def check_weights(port: Port, model: Model) -> Level:
    """Digests against the manifest, pointers against the parsed headers, bytes against the re-run rules, and the source
    ranges against the digests that were taken when the port was made.

    Digests that were not taken then (of shards that the graph points into) are taken now and put into the manifest.
    """
    port = take_digests(port)
    files, pointers, unaccounted, unlike, ranges = _changed_files(port), *([], [], []), dict[str, str]()
    for card, its in cards_of(port, model):
        tensors, broken = _headers(card)
        graphs, unread = _graphs(card)
        weights = _weights(card, its, tensors)
        different, read = _compare(card, its, weights)
        files += broken + unread
        pointers += _wrong_pointers(graphs, weights)
        unaccounted += _unaccounted(graphs, card, its)
        unlike += different
        ranges |= read
    checks = [
        _named("files changed", files),
        _named("pointers astray", pointers),
        _named("weights missing or extra", unaccounted),
        _named("weights unlike their source", unlike),
        _named("source ranges changed", _changed_ranges(port, ranges)),
    ]
    return Level("weights", tuple(checks))


def damage(port: Port, model: Model) -> list[str]:
    """Why a port must not be run: a graph that was changed or cannot be read, or that does not point at its weights."""
    wrong = [f"{e['file']} was changed" for e in port.manifest["graphs"] if _is_changed(port, e)]
    for card, its in cards_of(port, model):
        tensors, broken = _headers(card)
        graphs, unread = _graphs(card)
        astray = _wrong_pointers(graphs, _weights(card, its, tensors))
        wrong += broken + unread + [f"pointer of {name}" for name in astray]
    return wrong


def _named(name: str, wrong: list[str]) -> Check:
    return Check.at_most(name, len(wrong), 0, first_few(wrong, 5))


def _headers(port: Port) -> tuple[dict[str, TensorInfo], list[str]]:
    """What the headers of the port's files say: the checkpoint's names in shards, the port's own in written files."""
    tensors: dict[str, TensorInfo] = {}
    broken = []
    for entry in port.manifest["weights"]:
        try:
            tensors |= {_key(entry, t): t for t in parse_header(port.folder / entry["file"])}
        except CheckpointError as error:
            broken.append(error.message)
    return tensors, broken


def _key(entry: Mapping[str, object], tensor: TensorInfo) -> str:
    return f"{CHECKPOINT}:{tensor.name}" if entry.get("of") == CHECKPOINT else tensor.name


def _graphs(port: Port) -> tuple[list[onnx.GraphProto], list[str]]:
    """The graphs without their weights; an empty one, and why, where a file holds none."""
    graphs, unread = [], []
    for path in port.graphs:
        try:
            graphs.append(onnx.load(path, load_external_data=False).graph)
        except DecodeError:
            graphs.append(onnx.GraphProto())
            unread.append(f"{path.name} cannot be read")
    return graphs, unread


def _weights(port: Port, model: Model, tensors: Mapping[str, TensorInfo]) -> dict[str, Found]:
    """Where each weight must lie, by the headers alone."""
    dtype = DTYPES[port.dtype]
    shards = {name.removeprefix(f"{CHECKPOINT}:"): t for name, t in tensors.items() if name.startswith(CHECKPOINT)}
    found = {}
    for weight in model.binding.weights:
        stored = weight.parameter.stored(dtype)
        if all(name in tensors for name, _, _ in stored):
            infos = [tensors[name] for name, _, _ in stored]
            places = [Place(n, d, s, i.offset, i.nbytes) for (n, d, s), i in zip(stored, infos, strict=True)]
            fit = all((i.shape, i.dtype) == (s, SAFETENSORS[d]) for (_, d, s), i in zip(stored, infos, strict=True))
            if fit and len({i.file for i in infos}) == 1:
                found[weight.parameter.name] = Found(infos[0].file, tuple(places))
        elif weight.pieces and all(piece.source in shards for piece in weight.pieces):
            pointed = reference(weight, shards, dtype)
            if pointed is not None:
                found[weight.parameter.name] = Found(pointed.file, (pointed.place,))
    return found


def _changed_files(port: Port) -> list[str]:
    entries = [e for part in PARTS for e in port.manifest[part]]
    return [e["file"] for e in entries if _is_changed(port, e)]


def _is_changed(port: Port, entry: Mapping[str, Any]) -> bool:
    return bool(digest_of(port.folder / entry["file"])["sha256"] != entry["sha256"])


def _wrong_pointers(graphs: Sequence[onnx.GraphProto], weights: Mapping[str, Found]) -> list[str]:
    """The checker of ONNX does not look at offsets: one past the end, or into the header, would be read as weights."""
    expected = {
        place.name: (found.file.name, str(place.offset), str(place.nbytes), place.shape, int(place.dtype))
        for found in weights.values()
        for place in found.places
    }
    wrong = []
    for initializer in (i for graph in graphs for i in graph.initializer):
        if initializer.data_location != onnx.TensorProto.EXTERNAL:
            continue
        at = {e.key: e.value for e in initializer.external_data}
        place = (at.get("location"), at.get("offset"), at.get("length"))
        if (*place, tuple(initializer.dims), int(initializer.data_type)) != expected.get(str(initializer.name)):
            wrong.append(str(initializer.name))
    return list(dict.fromkeys(wrong))


def _unaccounted(graphs: Sequence[onnx.GraphProto], port: Port, model: Model) -> list[str]:
    """Weights that one of the graphs lacks, has twice, or should not have; segments have all of them together."""
    wanted = {name for w in model.binding.weights for name, _, _ in w.parameter.stored(DTYPES[port.dtype])}
    found = [[str(i.name) for i in g.initializer if i.data_location == onnx.TensorProto.EXTERNAL] for g in graphs]
    wrong = {name for names in found for name in names if names.count(name) > 1}
    held = [{*names} for names in found]
    for there in held if port.cards == 1 else [set[str]().union(*held)]:
        wrong |= wanted ^ there
    return sorted(wrong)


def _compare(port: Port, model: Model, weights: Mapping[str, Found]) -> tuple[list[str], dict[str, str]]:
    """Weights that are not what their rules make of the source once more, and the digests of the ranges read for it."""
    different, ranges = [], dict[str, str]()
    for weight in model.binding.weights:
        found = weights.get(weight.parameter.name)
        if found is None or not _same(found, weight, model, port, ranges):
            different.append(weight.parameter.name)
    return different, ranges


def _same(found: Found, weight: Weight, model: Model, port: Port, ranges: dict[str, str]) -> bool:
    stored = [
        np.memmap(found.file, dtype=np.uint8, mode="r", offset=p.offset, shape=(p.nbytes,)) if p.nbytes else b""
        for p in found.places
    ]
    at, same, ledger = [0] * len(stored), True, Ledger(model.checkpoint)
    for piece in weight.pieces or (None,):
        for parts in content(weight, piece, model.source, ledger.read, DTYPES[port.dtype]):
            for n, part in enumerate(parts):
                data = part.reshape(-1).view(np.uint8)
                same &= np.array_equal(stored[n][at[n] : at[n] + data.size], data)
                at[n] += data.size
        ranges |= ledger.ranges()
    return same and at == [place.nbytes for place in found.places]


def _changed_ranges(port: Port, ranges: Mapping[str, str]) -> list[str]:
    """Ranges whose content is not what it was when the port was made; those that were not read then say nothing."""
    files = port.manifest["source"]["files"]
    taken = {name: digest for file in files for name, digest in file["ranges"].items()}
    return sorted(name for name in taken if ranges.get(name) != taken[name])
