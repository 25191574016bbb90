"""What flows between the modules of the original: recorded in float64, and put in place of what float32 has there.

Where every module is given the exact values, what it is off by is its own rounding and nothing that came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from porter.verify.part import Part, Past, Trace
from porter.verify.precision import as_array
from porter.verify.scenarios import Scenario


class Source(NamedTuple):
    """Where a value of the original is: what goes into a module, what comes out of it (where that is several: which),
    or the mask that a layer is given.
    """

    module: str
    side: Literal["in", "out", "mask"] = "out"
    number: int = 0


Values = dict[Source, torch.Tensor]


@dataclass
class Moment:
    """One call of the original: what it computed, what it went on from, and the values between its modules."""

    trace: Trace
    past: Past | None  # before it, with the call's gap
    hidden: np.ndarray | None  # [B, S, D] that a stage without the embedding was given
    values: Values = field(default_factory=dict)

    def array(self, source: Source) -> np.ndarray | None:
        """A value that was recorded. Of a mask, who may look at whom; of complex numbers, which rotations may be given
        as, the real or the imaginary part.
        """
        tensor = self.values.get(source)
        if tensor is None:
            return None
        if source.side == "mask":
            return as_array(tensor if tensor.dtype == torch.bool else tensor == 0)
        if tensor.is_complex():
            tensor = tensor.imag if source.number else tensor.real
        return as_array(tensor)


def modules_of(part: Part) -> dict[str, bool]:
    """The names of all modules, and whether they have none inside: of these, what goes in may be asked for."""
    return {name: next(module.children(), None) is None for name, module in part.model.named_modules() if name}


def tell(
    part: Part,
    story: Scenario,
    masks: Sequence[np.ndarray],
    sources: Iterable[Source],
    given: Sequence[np.ndarray] | None,
) -> list[Moment]:
    """A story on the original in float64, with these values recorded; `masks` [B, places] are over all places so far.

    A stage without the embedding is `given` what the stage before computed in each call.
    """
    moments: list[Moment] = []
    past: Past | None = None
    for n, mask in enumerate(masks):
        past = past.with_gap(story.calls[n].gap) if past and story.calls[n].gap else past
        hidden = given[n] if given else None
        with _Inside(part.model, sources, {}) as inside:
            trace, left = _call(part, story, n, mask, past, None, hidden)
        moments.append(Moment(trace, past, hidden, inside.values))
        past = left
    return moments


def tell_again(
    part: Part, story: Scenario, masks: Sequence[np.ndarray], sources: Iterable[Source], exact: Sequence[Moment]
) -> list[Moment]:
    """The same story in float32, where every recorded value is recorded again and then replaced by the exact one."""
    moments: list[Moment] = []
    left: Past | None = None
    for n, (mask, moment) in enumerate(zip(masks, exact, strict=True)):
        past = moment.past
        if past is not None and left is not None:
            cache = {layer: (keys.float(), values.float()) for layer, (keys, values) in past.cache.items()}
            past = Past(cache, past.length, left.rotary)
        with _Inside(part.model, sources, moment.values) as inside:
            trace, left = _call(part, story, n, mask, past, moment.trace.routes, moment.hidden)
        moments.append(Moment(trace, past, moment.hidden, inside.values))
    return moments


def _call(
    part: Part,
    story: Scenario,
    number: int,
    mask: np.ndarray,
    past: Past | None,
    routes: Mapping[int, np.ndarray] | None,
    hidden: np.ndarray | None,
) -> tuple[Trace, Past]:
    call = story.calls[number]
    return part.run(
        call.input_ids,
        position_ids=call.position_ids,
        attention_mask=mask,
        past=past,
        routes=routes,
        embedding_scale=story.embedding_scale,
        hidden=hidden,
    )


class _Inside:
    """Records values while a model runs, and replaces those for which there are others."""

    def __init__(self, model: Any, sources: Iterable[Source], instead: Values) -> None:
        self.values: Values = {}
        self._instead, self._hooks = instead, ExitStack()
        self._wanted: dict[str, list[Source]] = {}
        for source in sources:
            self._wanted.setdefault(source.module, []).append(source)
        self._modules = dict(model.named_modules())

    def __enter__(self) -> _Inside:
        for name, sources in self._wanted.items():
            module = self._modules[name]
            for hook in (
                module.register_forward_pre_hook(self._before(sources), with_kwargs=True),
                module.register_forward_hook(self._behind([s for s in sources if s.side == "out"])),
            ):
                self._hooks.callback(hook.remove)
        return self

    def __exit__(self, *raised: object) -> None:
        self._hooks.close()

    def _before(self, sources: Sequence[Source]) -> Callable[..., Any]:
        def hook(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
            for source in sources:
                if source.side == "mask":
                    self._seen(source, named.get("attention_mask"))
                elif source.side == "in" and inputs:
                    inputs = (self._seen(source, inputs[0]), *inputs[1:])
            return inputs, named

        return hook

    def _behind(self, sources: Sequence[Source]) -> Callable[..., Any]:
        def hook(module: Any, inputs: Any, output: Any) -> Any:
            if isinstance(output, torch.Tensor):
                return self._all(sources, output)
            parts = list(output)
            for source in sources:
                if source.number < len(parts):
                    parts[source.number] = self._seen(source, parts[source.number])
            return tuple(parts)

        return hook

    def _all(self, sources: Sequence[Source], output: torch.Tensor) -> torch.Tensor:
        """One value, although of complex numbers both parts are asked for."""
        instead = output
        for source in sources:
            instead = self._seen(source, output)
        return instead

    def _seen(self, source: Source, value: Any) -> Any:
        """Records a value, and gives what takes its place."""
        if not isinstance(value, torch.Tensor):
            return value
        self.values[source] = value.detach().clone()
        exact = self._instead.get(source)
        return value if exact is None or source.side == "mask" else exact.to(value.dtype).reshape(value.shape)
