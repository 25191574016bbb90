"""In float64, nothing is computed in less."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from inside import inside
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from porter.verify.original import Original
from porter.verify.precision import float64_throughout

NARROW = {torch.float32, torch.complex64, torch.float16, torch.bfloat16}


class Spy(TorchDispatchMode):  # type: ignore[misc]
    """Notes every operation that gives a tensor of less than double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype in NARROW for leaf in tree_leaves(result)):
            self.narrow.add(str(func))
        return result


def test_float64_computes_nothing_in_less(name: str, original: Callable[..., Original]) -> None:
    model = original(name)
    with Spy() as spy:
        _, past = model.run(np.arange(12).reshape(1, 12))
        model.run(np.array([[3]]), past=past)
    assert spy.narrow == set()


def test_plain_double_computes_norms_and_softmax_in_float32(checkpoint: Callable[[str], Path]) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint("llama"), attn_implementation="eager")
    with torch.no_grad(), Spy() as spy:
        model.double()(torch.arange(12)[None])
    assert {"aten._to_copy.default", "aten.rsqrt.default", "aten._softmax.default"} <= spy.narrow


def test_weights_and_rotary_frequencies_are_double(name: str, original: Callable[..., Original]) -> None:
    model = inside(original(name))
    assert {tensor.dtype for tensor in [*model.parameters(), *model.buffers()]} == {torch.float64}


def test_rotary_frequencies_are_not_rounded_to_float32(original: Callable[..., Original]) -> None:
    exact = 1 / 10000.0 ** (np.arange(0, 8, 2) / 8)
    frequencies = inside(original("mistral")).model.rotary_emb.inv_freq.numpy()
    assert np.abs(frequencies / exact - 1).max() < 1e-15


def test_every_spelling_of_float32_is_widened() -> None:
    half = torch.ones(2, dtype=torch.bfloat16)
    with float64_throughout():
        given = [
            half.float(),
            half.to(torch.float32),
            half.to("cpu", torch.float32),
            half.type(torch.float32),
            half.softmax(-1, dtype=torch.float32),
            torch.arange(3, dtype=torch.float),
            torch.zeros(2, dtype=torch.float32),
            torch.tensor(1.5),
            torch.tensor([1, 2]) / 3,
            torch.ones(2, dtype=torch.complex64).real,
            torch.view_as_real(half.cfloat()),
        ]
    assert {tensor.dtype for tensor in given} == {torch.float64}
    assert torch.get_default_dtype() == torch.float32
