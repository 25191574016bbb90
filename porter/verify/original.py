"""The original: transformers' own implementation of a checkpoint, run in float64, float32, or a narrower dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from porter.verify.load import Override, Stored
from porter.verify.part import SMALL, Part, Past, Trace, threads_for
from porter.verify.precision import Precision
from porter.verify.stages import Stage, Stages, whole
from porter.verify.stored import Tensors


class Original:
    """A checkpoint in one precision, in memory as a whole or stage by stage.

    `override` gives tensors that stand in for the checkpoint's own of the same names: what a quantized port has.
    """

    def __init__(
        self,
        folder: Path,
        precision: Precision,
        override: Override | None = None,
        stages: Stages | None = None,
    ) -> None:
        self._stored, self._precision, self._override = Stored(folder), precision, override or nothing
        config = self._stored.config
        self.layers: int = config.num_hidden_layers
        self.vocabulary: int = config.vocab_size
        self.max_positions: int = config.max_position_embeddings
        self.stages = stages or whole(self.layers)
        self.has_sdpa = self._stored.has_sdpa
        self._loaded: dict[Stage, Part] = {}
        self._attention = "eager"
        self._threads: int | None = None
        if len(self.stages.parts) == 1:  # what is wrong with it is said at once
            self.part(self.stages.parts[0])

    def part(self, stage: Stage) -> Part:
        """A stage; where not all are resident, the one before is let go first."""
        if stage not in self._loaded:
            if not self.stages.resident:
                self._loaded.clear()
            alone = stage if len(self.stages.parts) > 1 else None
            self._loaded[stage] = Part(self._stored, self._precision, self._override, alone)
        return self._loaded[stage]

    def release(self) -> None:
        """Lets go of what is not resident."""
        if not self.stages.resident:
            self._loaded.clear()

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
        """One forward pass through all stages, as Part.run has it."""
        traces: list[Trace] = []
        pasts: list[Past] = []
        for stage in self.stages.parts:
            trace, left = self.part(stage).run(
                input_ids,
                position_ids=position_ids,
                attention_mask=attention_mask,
                past=past,
                routes=routes,
                embedding_scale=embedding_scale,
                hidden=traces[-1].logits if traces else None,
                attention=self._attention,
                threads=self._threads,
            )
            traces.append(trace)
            pasts.append(left)
        self.release()
        return _joined(traces), Past({n: kv for p in pasts for n, kv in p.cache.items()}, left.length, left.rotary)

    def greedy(self, prompt_ids: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Take the likeliest token `steps` times, through the cache; return tokens and logits [steps, V]."""
        trace, past = self.run(prompt_ids)
        logits = [trace.logits[0, -1]]
        while len(logits) < steps:
            trace, past = self.run(logits[-1].argmax().reshape(1, 1), past=past)
            logits.append(trace.logits[0, -1])
        return np.argmax(logits, axis=-1), np.stack(logits)

    @property
    def threads(self) -> int:
        """How many it is run with."""
        return self._threads or (
            self.part(self.stages.parts[0]).threads if self.stages.resident else threads_for(SMALL)
        )

    @contextmanager
    def otherwise(self, *, attention: str = "eager", threads: int | None = None) -> Iterator[None]:
        """What is run within is computed by another attention of transformers', or with another number of threads."""
        self._attention, self._threads = attention, threads
        try:
            yield
        finally:
            self._attention, self._threads = "eager", None


class Originals:
    """The original in float64, and in one other precision at a time; each is loaded when it is first asked for.

    All have the weights that a quantized port means, `override`, but for the one that is asked for as it is stored.
    """

    def __init__(self, folder: Path, override: Override | None, stages: Stages) -> None:
        self.folder, self._override, self.stages = folder, override, stages
        self._other: tuple[Precision, Original] | None = None

    @cached_property
    def exact(self) -> Original:
        """In float64."""
        return self._load("float64")

    def at(self, precision: Precision) -> Original:
        """In another precision; the one before is let go first."""
        if self._other is None or self._other[0] != precision:
            self._other = None
            self._other = (precision, self._load(precision))
        return self._other[1]

    def as_stored(self) -> Original:
        """In float64 with the checkpoint's own weights; loaded anew where these are others, and not kept."""
        return Original(self.folder, "float64", stages=self.stages) if self._override else self.exact

    def tensors(self) -> Tensors:
        """The checkpoint's own."""
        return Stored(self.folder).read()

    def _load(self, precision: Precision) -> Original:
        return Original(self.folder, precision, self._override, self.stages)


def nothing(wanted: Callable[[str], bool]) -> Tensors:
    """No tensor stands in for another."""
    return {}


def _joined(traces: Sequence[Trace]) -> Trace:
    """What all stages computed, as one."""
    if len(traces) == 1:
        return traces[0]

    def by_layer(name: str) -> Any:
        return {n: values for trace in traces for n, values in getattr(trace, name).items()}

    return Trace(
        traces[-1].logits,
        by_layer("layers"),
        by_layer("router_logits"),
        by_layer("choice"),
        by_layer("routes"),
        by_layer("group_scores"),
        by_layer("cache"),
    )
