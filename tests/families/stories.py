"""A few stories of calls, told to the original in float64 and float32, and to ports."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tiny

from porter.families import Family, family_of
from porter.families._config import DecoderConfig
from porter.verify.original import Original
from porter.verify.part import Past

Routes = dict[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class Case:
    """A checkpoint to try: a family's sample with changes to its config, and to what lies on disk."""

    family: str
    name: str = "sample"
    config: Mapping[str, Any] = field(default_factory=dict)  # overrides, as for tiny.sample
    options: Mapping[str, Any] = field(default_factory=dict)  # of tiny.write_checkpoint
    disk: Callable[[Path], None] | None = None
    form: str = "auto"
    reach: int | None = None  # where positions end, if not at max_position_embeddings
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.family}-{self.name}"


@dataclass(frozen=True)
class Call:
    """The new tokens of one call, [B, S] each; a place with mask 0 is padding."""

    ids: np.ndarray
    positions: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Told:
    """A case's checkpoint, and what the original makes of each story: logits first, then the cache."""

    folder: Path
    stories: dict[str, list[Call]]
    exact: dict[str, list[np.ndarray]]  # in float64
    rounded: dict[str, list[np.ndarray]]  # in float32


def tell(case: Case, folder: Path) -> Told:
    """Writes the case's checkpoint into `folder` and runs the original on it."""
    raw = tiny.sample(case.family, **case.config)
    tiny.write_checkpoint(folder, raw, **case.options)
    if case.disk is not None:
        case.disk(folder)
    family = family_of(raw)
    config = family.read(raw)
    tales = stories(config.vocab_size, case.reach or config.max_position_embeddings)
    exact, rounded = Original(folder, "float64"), Original(folder, "float32")
    wide = {name: _ask(exact, family, config, calls) for name, calls in tales.items()}
    narrow = {name: _ask(rounded, family, config, calls) for name, calls in tales.items()}
    for name in tales:
        for a, b in zip(wide[name][1], narrow[name][1], strict=True):
            assert all((a[layer] == b[layer]).all() for layer in a), "float32 flips a route: take another seed"
    return Told(folder, tales, {n: r[0] for n, r in wide.items()}, {n: r[0] for n, r in narrow.items()})


def stories(vocabulary: int, positions: int) -> dict[str, list[Call]]:
    """Prefill, decode, chunks through the cache up to the last of `positions`, and a batch padded on the left."""
    ids = np.random.default_rng(20).integers(0, vocabulary, (2, 30))
    mask = np.array([[1] * 11, [0] * 5 + [1] * 6])
    places = np.maximum(mask.cumsum(1) - 1, 0)
    one = np.ones((2, 1), np.int64)
    return {
        "prefill": _chain(ids[:1], 17),
        "decode": _chain(ids[:1], 9, 1, 1, 1, 1),
        "chunks": [*_chain(ids[:1], 5, 1, 8), _call(ids[:1, 14:18], positions - 4)],
        "padded batch": [Call(ids[:, :11], places, mask), Call(ids[:, 11:12], places[:, -1:] + 1, one)],
    }


def _call(ids: np.ndarray, start: int) -> Call:
    return Call(ids, np.arange(start, start + ids.shape[1])[None], np.ones(ids.shape, np.int64))


def _chain(ids: np.ndarray, *sizes: int) -> list[Call]:
    bounds = itertools.pairwise(itertools.accumulate(sizes, initial=0))
    return [_call(ids[:, a:b], a) for a, b in bounds]


def _masks(calls: list[Call], places: int) -> Iterator[tuple[Call, np.ndarray]]:
    """Each call with the mask of the whole cache after it, where `places` hidden ones come first."""
    whole = np.zeros((len(calls[0].ids), places), np.int64)
    for call in calls:
        whole = np.concatenate([whole, call.mask], axis=1)
        yield call, whole


def _real(cache: np.ndarray, calls: list[Call]) -> np.ndarray:
    """The cache [B, H, T, D] at the tokens that are not padding: [tokens, H, D]."""
    mask = np.concatenate([c.mask for c in calls], axis=1).astype(bool)
    return np.moveaxis(cache[:, :, -mask.shape[1] :], 2, 1)[mask]


def _ask(
    model: Original, family: Family, config: DecoderConfig, calls: list[Call]
) -> tuple[list[np.ndarray], list[Routes]]:
    """Logits of all calls' real tokens, each tensor of the cache as a port holds it; and the experts of each call."""
    logits, routes, caches = list[np.ndarray](), list[Routes](), ()
    past: Past | None = None
    for call, mask in _masks(calls, 0):
        trace, past = model.run(call.ids, position_ids=call.positions, attention_mask=mask, past=past)
        real, caches = call.mask.astype(bool), tuple(trace.cache.values())
        logits.append(trace.logits[real])
        routes.append({layer: np.sort(r, axis=-1)[real.ravel()] for layer, r in trace.routes.items()})
    entries = [e for kept in caches for e in family.original_cache(config, *kept)]
    return [np.concatenate(logits), *(_real(e, calls) for e in entries)], routes


def ask_port(runner: tiny.Runner, calls: list[Call], places: int) -> list[np.ndarray]:
    """The same of a port, whose cache begins with `places` that the mask hides."""
    cache, logits = runner.empty(len(calls[0].ids), places), []
    for call, mask in _masks(calls, places):
        result, cache = runner.run(call.ids, call.positions, mask, cache)
        logits.append(result[call.mask.astype(bool)])
    return [np.concatenate(logits), *(_real(entry, calls) for entry in cache.values())]


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))
