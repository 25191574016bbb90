"""The original: transformers' own implementation of a checkpoint, run in float64, float32, or a narrower dtype."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch.nn.functional import pad

from porter.errors import ParityError
from porter.verify.load import build_model, read_checkpoint
from porter.verify.precision import as_array, float64_throughout
from porter.verify.routing import Routing
from porter.verify.stored import Tensors

SMALL = 2**26  # parameters: with fewer, a second thread does little but wait for the first, worst on a busy machine
Precision = Literal["float64", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Trace:
    """What one call computed: B sequences of S tokens, width D, V words, E experts of which K are chosen."""

    logits: np.ndarray  # [B, S, V]
    layers: tuple[np.ndarray, ...]  # [B, S, D] each: the output of every decoder layer, before the final norm
    # Of each layer with a router:
    router_logits: dict[int, np.ndarray]  # [B*S, E]
    choice: dict[int, np.ndarray]  # [B*S, E]: what the top-k was taken over, with bias and group mask
    routes: dict[int, np.ndarray]  # [B*S, K]: the experts chosen or forced, in no special order
    group_scores: dict[int, tuple[np.ndarray, int]]  # [B*S, G] and how many groups are kept, where experts are grouped
    # Keys and values of each layer after the call, in the form in which transformers keeps them:
    cache: tuple[tuple[np.ndarray, np.ndarray], ...]


@dataclass(frozen=True)
class Past:
    """What one call leaves for the next; any number of calls may continue it."""

    cache: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    length: int
    rotary: tuple[tuple[Any, torch.Tensor], ...]  # of each rotary embedding: max_seq_len_cached and inv_freq

    def with_gap(self, places: int) -> Past:
        """The same with empty places behind it, for an attention mask to hide."""
        cache = tuple((pad(keys, (0, 0, 0, places)), pad(values, (0, 0, 0, places))) for keys, values in self.cache)
        return Past(cache, self.length + places, self.rotary)


class Original:
    """A checkpoint loaded into transformers' own class, with eager attention and eager experts.

    `override` are tensors that stand in for the checkpoint's own of the same names: what a quantized port has.
    """

    def __init__(self, folder: Path, precision: Precision, override: Tensors | None = None) -> None:
        self._precision = precision
        config, tensors = read_checkpoint(folder)
        tensors |= override or {}
        with self._arithmetic():
            self._model = build_model(config, tensors, getattr(torch, precision))
        self._decoder = self._model.base_model.layers
        self._rotary = [module for module in self._model.modules() if hasattr(module, "original_inv_freq")]
        self.layers: int = config.num_hidden_layers
        self.vocabulary: int = config.vocab_size
        self.max_positions: int = config.max_position_embeddings
        self.threads: int = 1 if self._model.num_parameters() < SMALL else torch.get_num_threads()

    def run(
        self,
        input_ids: np.ndarray,
        *,
        position_ids: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
        past: Past | None = None,
        routes: Mapping[int, np.ndarray] | None = None,
        embedding_scale: float = 1.0,
    ) -> tuple[Trace, Past]:
        """Run one forward pass; return what it computed, and what the next call takes as `past`.

        Embeddings are multiplied by `embedding_scale`, a power of two: that is exact.
        """
        batch, new = input_ids.shape
        start = past.length if past else 0
        if position_ids is None:
            position_ids = np.broadcast_to(np.arange(start, start + new), (batch, new))
        if attention_mask is None:
            attention_mask = np.ones((batch, start + new))
        elif attention_mask.shape != (batch, start + new):  # transformers would pad or cut it
            raise ParityError(
                f"the attention mask has shape {attention_mask.shape}",
                f"it covers the past too: {(batch, start + new)}",
            )
        routing, outputs = Routing(self._decoder, batch * new, routes), list[np.ndarray]()
        with torch.no_grad(), self._threads(), self._arithmetic(), routing, ExitStack() as hooks:
            embedding = self._model.get_input_embeddings()
            hooks.callback(embedding.register_forward_hook(lambda _, __, rows: rows * embedding_scale).remove)
            for layer in self._decoder:
                hooks.callback(layer.register_forward_hook(_keep(outputs)).remove)
            self._set_rotary(past)
            # Without a config the cache keeps what lies before a sliding window too, as a port's does.
            cache = transformers.DynamicCache(past.cache if past else None)
            logits = self._model(
                input_ids=_integers(input_ids),
                position_ids=_integers(position_ids),
                attention_mask=_integers(attention_mask),
                past_key_values=cache,
                use_cache=True,
            ).logits
        kept = tuple((layer.keys, layer.values) for layer in cache.layers)
        trace = Trace(
            as_array(logits),
            tuple(outputs),
            routing.router_logits,
            routing.choice,
            routing.routes,
            routing.group_scores,
            tuple((as_array(keys), as_array(values)) for keys, values in kept),
        )
        rotary = tuple((module.max_seq_len_cached, module.inv_freq.clone()) for module in self._rotary)
        return trace, Past(kept, start + new, rotary)

    def greedy(self, prompt_ids: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Take the likeliest token `steps` times, through the cache; return tokens and logits [steps, V]."""
        trace, past = self.run(prompt_ids)
        logits = [trace.logits[0, -1]]
        while len(logits) < steps:
            trace, past = self.run(logits[-1].argmax().reshape(1, 1), past=past)
            logits.append(trace.logits[0, -1])
        return np.argmax(logits, axis=-1), np.stack(logits)

    def _arithmetic(self) -> AbstractContextManager[None]:
        return float64_throughout() if self._precision == "float64" else nullcontext()

    @contextmanager
    def otherwise(self, *, attention: str = "eager", threads: int | None = None) -> Iterator[None]:
        """What is run within is computed by another attention of transformers', or with another number of threads."""
        before, self.threads = self.threads, threads or self.threads
        self._model.set_attn_implementation(attention)
        try:
            yield
        finally:
            self._model.set_attn_implementation("eager")
            self.threads = before

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """As many as are worth it."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _set_rotary(self, past: Past | None) -> None:
        """Put rotary embeddings that adapt to the sequence's length back where `past` left them."""
        for n, module in enumerate(self._rotary):
            fresh = (module.original_max_seq_len, module.original_inv_freq)
            module.max_seq_len_cached, frequencies = past.rotary[n] if past else fresh
            module.inv_freq = frequencies.clone()


class Originals:
    """The original in float64, and in one other precision at a time; each is loaded when it is first asked for.

    All have the weights that a quantized port means, `override`, but for the one that is asked for as it is stored.
    """

    def __init__(self, folder: Path, override: Tensors) -> None:
        self.folder, self._override = folder, override
        self._other: tuple[Precision, Original] | None = None

    @cached_property
    def exact(self) -> Original:
        """In float64."""
        return Original(self.folder, "float64", self._override)

    def at(self, precision: Precision) -> Original:
        """In another precision; the one before is let go first."""
        if self._other is None or self._other[0] != precision:
            self._other = None
            self._other = (precision, Original(self.folder, precision, self._override))
        return self._other[1]

    def as_stored(self) -> Original:
        """In float64 with the checkpoint's own weights; loaded anew where these are others, and not kept."""
        return Original(self.folder, "float64") if self._override else self.exact

    def tensors(self) -> Tensors:
        """The checkpoint's own."""
        return read_checkpoint(self.folder)[1]


def _keep(outputs: list[np.ndarray]) -> Any:
    def hook(layer: Any, inputs: Any, output: Any) -> None:
        outputs.append(as_array(output[0] if isinstance(output, tuple) else output))

    return hook


def _integers(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.int64))
