"""A part of the original in memory: transformers' own classes for some layers of a checkpoint, or for all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.functional import pad

from porter.errors import ParityError
from porter.verify.load import Override, Stored, build_model
from porter.verify.precision import Precision, arithmetic, as_array
from porter.verify.routing import Routing
from porter.verify.stages import Stage

SMALL = 2**26  # parameters: with fewer, a second thread does little but wait for the first, worst on a busy machine


@dataclass(frozen=True)
class Trace:
    """What one call computed: B sequences of S tokens, width D, V words, E experts of which K are chosen."""

    logits: np.ndarray  # [B, S, V]; what comes out of the last layer [B, S, D] of a stage without the head
    layers: dict[int, np.ndarray]  # [B, S, D] each: the output of every decoder layer, before the final norm
    # Of each layer with a router:
    router_logits: dict[int, np.ndarray]  # [B*S, E]
    choice: dict[int, np.ndarray]  # [B*S, E]: what the top-k was taken over, with bias and group mask
    routes: dict[int, np.ndarray]  # [B*S, K]: the experts chosen or forced, in no special order
    group_scores: dict[int, tuple[np.ndarray, int]]  # [B*S, G] and how many groups are kept, where experts are grouped
    # Keys and values of each layer after the call, in the form in which transformers keeps them:
    cache: dict[int, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Past:
    """What one call leaves for the next; any number of calls may continue it."""

    cache: Mapping[int, tuple[torch.Tensor, torch.Tensor]]  # of each layer
    length: int
    rotary: tuple[tuple[Any, torch.Tensor], ...]  # of each rotary embedding: max_seq_len_cached and inv_freq

    def with_gap(self, places: int) -> Past:
        """The same with empty places behind it, for an attention mask to hide."""
        wider = (0, 0, 0, places)
        cache = {n: (pad(keys, wider), pad(values, wider)) for n, (keys, values) in self.cache.items()}
        return Past(cache, self.length + places, self.rotary)

    def layers(self, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For a cache of so many layers; those that are absent have numbers of no meaning, for their places count."""
        keys, _ = next(iter(self.cache.values()), (torch.zeros(1, 1, self.length, 1), None))
        nothing = keys.new_zeros(1).expand(len(keys), 1, self.length, 1)
        return [self.cache.get(n, (nothing, nothing)) for n in range(count)]


class Part:
    """A stage of the original in memory, or all of it: transformers' own class, eager attention and eager experts."""

    def __init__(self, stored: Stored, precision: Precision, override: Override, stage: Stage | None) -> None:
        self.precision = precision
        self._model = build_model(stored, precision, override, stage)
        self._decoder = self._model.base_model.layers
        self._layers = range(len(self._decoder)) if stage is None else stage.layers
        self.threads = threads_for(self._model.num_parameters())
        self._rotary = [module for module in self._model.modules() if hasattr(module, "original_inv_freq")]

    def run(
        self,
        input_ids: np.ndarray,
        *,
        position_ids: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
        past: Past | None = None,
        routes: Mapping[int, np.ndarray] | None = None,
        embedding_scale: float = 1.0,
        hidden: np.ndarray | None = None,
        attention: str = "eager",
        threads: int | None = None,
    ) -> tuple[Trace, Past]:
        """Run one forward pass; return what it computed, and what the next call takes as `past`.

        Embeddings are multiplied by `embedding_scale`, a power of two: that is exact. A stage without them is given
        `hidden` [B, S, D], which the one before has as its `logits`. `attention` is one of transformers' own.
        """
        batch, new = input_ids.shape
        start = past.length if past else 0
        if position_ids is None:
            position_ids = np.broadcast_to(np.arange(start, start + new), (batch, new))
        attention_mask = _mask(attention_mask, (batch, start + new))
        mine = {n: chosen for n, chosen in (routes or {}).items() if n in self._layers}
        routing, outputs = Routing(self._decoder, batch * new, mine), list[np.ndarray]()
        with (
            torch.no_grad(),
            _running(threads or self.threads),
            arithmetic(self.precision),
            routing,
            ExitStack() as to,
        ):
            for hook in self._hooks(outputs, embedding_scale):
                to.callback(hook.remove)
            self._set_rotary(past)
            self._model.set_attn_implementation(attention)
            # Without a config the cache keeps what lies before a sliding window too, as a port's does.
            cache = transformers.DynamicCache(past.layers(len(self._decoder)) if past else None)
            logits = self._model(
                **self._entry(input_ids, hidden),
                position_ids=_integers(position_ids),
                attention_mask=_integers(attention_mask),
                past_key_values=cache,
                use_cache=True,
            ).logits
        kept = {n: (cache.layers[n].keys, cache.layers[n].values) for n in self._layers}
        trace = Trace(
            as_array(logits),
            dict(zip(self._layers, outputs, strict=True)),
            routing.router_logits,
            routing.choice,
            routing.routes,
            routing.group_scores,
            {n: (as_array(keys), as_array(values)) for n, (keys, values) in kept.items()},
        )
        rotary = tuple((module.max_seq_len_cached, module.inv_freq.clone()) for module in self._rotary)
        return trace, Past(kept, start + new, rotary)

    @property
    def model(self) -> Any:
        """Transformers' own, to be looked into."""
        return self._model

    def _entry(self, input_ids: np.ndarray, hidden: np.ndarray | None) -> dict[str, torch.Tensor]:
        """Tokens, or for a stage without the embedding what the stage before made of them."""
        if hidden is None:
            return {"input_ids": _integers(input_ids)}
        return {"inputs_embeds": torch.from_numpy(hidden).to(getattr(torch, self.precision))}

    def _hooks(self, outputs: list[np.ndarray], scale: float) -> Iterator[Any]:
        """What keeps the layers' outputs and multiplies the embeddings; to be removed after the call."""
        yield self._model.get_input_embeddings().register_forward_hook(lambda _, __, rows: rows * scale)
        for n in self._layers:
            yield self._decoder[n].register_forward_hook(_keep(outputs))

    def _set_rotary(self, past: Past | None) -> None:
        """Put rotary embeddings that adapt to the sequence's length back where `past` left them."""
        for n, module in enumerate(self._rotary):
            fresh = (module.original_max_seq_len, module.original_inv_freq)
            module.max_seq_len_cached, frequencies = past.rotary[n] if past else fresh
            module.inv_freq = frequencies.clone()


def threads_for(parameters: int) -> int:
    """As many as are worth it."""
    return 1 if parameters < SMALL else torch.get_num_threads()


@contextmanager
def _running(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _mask(given: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    if given is not None and given.shape != shape:  # transformers would pad or cut it
        raise ParityError(f"the attention mask has shape {given.shape}", f"it covers the past too: {shape}")
    return np.ones(shape) if given is None else given


def _keep(outputs: list[np.ndarray]) -> Any:
    def hook(layer: Any, inputs: Any, output: Any) -> None:
        outputs.append(as_array(output[0] if isinstance(output, tuple) else output))

    return hook


def _integers(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.int64))
