"""True double precision: whatever asks for float32 while a model is built or run gets float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}
_WIDER_METHOD = {torch.Tensor.float: torch.Tensor.double, torch.Tensor.cfloat: torch.Tensor.cdouble}


Precision = Literal["float64", "float32", "bfloat16", "float16"]


def arithmetic(precision: Precision) -> AbstractContextManager[None]:
    """What a model is built and run in."""
    return float64_throughout() if precision == "float64" else nullcontext()


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Lifts the float32 casts that `Module.double()` leaves in norms, softmax, router and rotary embedding.

    The default dtype counts too: dividing two integer tensors, or a Python float by one, gives it.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widen():
            yield
    finally:
        torch.set_default_dtype(before)


class _Widen(TorchFunctionMode):  # type: ignore[misc]
    """Replaces float32 by float64 in the arguments of every torch function and tensor method."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        func = _WIDER_METHOD.get(func, func)
        return func(*map(_widen, args), **{name: _widen(value) for name, value in (kwargs or {}).items()})


def _widen(value: Any) -> Any:
    return _WIDER.get(value, value) if isinstance(value, torch.dtype) else value


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A copy for NumPy, which has no bfloat16: float32 holds the same numbers."""
    return np.array((tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor).numpy())
