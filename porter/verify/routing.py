"""Records which experts the original's routers choose, and puts other choices in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from porter.errors import ParityError
from porter.verify.precision import as_array


class Misfit(ParityError):
    """Routes that the original cannot follow: a port that chooses so is wrong, and can be compared no further."""


class Routing(TorchFunctionMode):  # type: ignore[misc]
    """Watches the top-k of every layer's router while a model runs.

    A router of transformers offers no way to hand it a choice, but each takes one with `topk` and computes
    all that follows from the result; so that call is where a choice is read and replaced.
    """

    def __init__(
        self, layers: Iterable[nn.Module], tokens: int, forced: Mapping[int, np.ndarray] | None = None
    ) -> None:
        super().__init__()
        blocks = [next((b for b in layer.children() if hasattr(b, "experts")), None) for layer in layers]
        self._blocks = {n: block for n, block in enumerate(blocks) if block is not None}
        self._gates: dict[int, Any] = {n: _gate_of(block) for n, block in self._blocks.items()}
        self._forced = {n: self._checked(n, tokens, routes) for n, routes in (forced or {}).items()}
        self._layer: int | None = None
        self._hooks: list[Any] = []
        self.router_logits: dict[int, np.ndarray] = {}
        self.choice: dict[int, np.ndarray] = {}
        self.routes: dict[int, np.ndarray] = {}
        self.group_scores: dict[int, tuple[np.ndarray, int]] = {}  # scores [B*S, G], how many groups are kept

    def __enter__(self) -> Routing:
        for layer, block in self._blocks.items():
            self._hooks += [
                block.register_forward_pre_hook(self._starts(layer)),
                self._gates[layer].register_forward_hook(self._routed),
                block.register_forward_hook(self._ends),
            ]
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for hook in self._hooks:
            hook.remove()

    def _checked(self, layer: int, tokens: int, routes: np.ndarray) -> torch.Tensor:
        if layer not in self._blocks:
            raise ParityError(
                f"routes are given for layer {layer}, which has no router",
                f"layers with one: {sorted(self._blocks)}",
            )
        gate = self._gates[layer]
        experts, wanted = _experts_of(gate), (tokens, gate.top_k)
        if routes.shape != wanted or routes.min() < 0 or routes.max() >= experts:
            raise Misfit(
                f"layer {layer}: routes of shape {routes.shape} do not fit, where the original's have {wanted}",
                f"the experts are 0 to {experts - 1}",
            )
        return torch.from_numpy(np.array(routes, dtype=np.int64))

    def _starts(self, layer: int) -> Callable[..., None]:
        def hook(block: nn.Module, inputs: Any) -> None:
            self._layer = layer

        return hook

    def _routed(self, gate: nn.Module, inputs: Any, output: Any) -> None:
        assert self._layer is not None
        logits = output[0] if isinstance(output, tuple) else output
        self.router_logits[self._layer] = as_array(logits)

    def _ends(self, block: nn.Module, inputs: Any, output: Any) -> None:
        if self._layer not in self.routes:
            raise ParityError(
                f"layer {self._layer}: the original chose its experts by other means than a top-k",
                "its routes can be neither compared nor forced",
            )
        self._layer = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if self._layer is not None and func in (torch.topk, torch.Tensor.topk):
            return self._topk(self._layer, func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _topk(
        self, layer: int, func: Callable[..., Any], scores: torch.Tensor, k: int, *args: Any, **kwargs: Any
    ) -> Any:
        gate, forced = self._gates[layer], self._forced.get(layer)
        experts, groups = _experts_of(gate), getattr(gate, "num_group", None)
        if scores.dim() == 2 and scores.shape[-1] == experts and k == gate.top_k:
            if forced is None:
                chosen = func(scores, k, *args, **kwargs)
            else:
                chosen = torch.return_types.topk((scores.gather(-1, forced), forced))
            # Where a layer takes several such top-k, the last one is the choice.
            self.choice[layer], self.routes[layer] = as_array(scores), as_array(chosen[1])
            return chosen
        if scores.dim() == 2 and scores.shape[-1] == groups:
            self.group_scores[layer] = as_array(scores), k
            if forced is not None:
                # Some routers mask what lies outside the chosen groups, and weigh the experts after that.
                scores = scores.scatter(-1, forced // (experts // groups), float("inf"))
        return func(scores, k, *args, **kwargs)


def _gate_of(block: nn.Module) -> nn.Module:
    """The router, whatever it is called: it knows how many experts to choose."""
    return next(part for part in block.children() if hasattr(part, "top_k"))


def _experts_of(gate: Any) -> int:
    """How many it chooses from: the rows of its weight, which comes first wherever it lies."""
    return int(next(gate.parameters()).shape[0])
