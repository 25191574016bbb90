"""What the forms share: tensors that must be there, fields of quantization_config, numbers packed into words."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from porter.checkpoint import Checkpoint
from porter.errors import FamilyError

FLOATS = ("F16", "BF16", "F32")  # of scales
WORDS = ("I32", "U32")
RELEASE = "compare it with the model's release"


def tensor(checkpoint: Checkpoint, name: str, beside: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> str:
    """The name, where a tensor of one of these dtypes and shapes is there; any matrix will do where no shape is given.

    Raises FamilyError: `beside` is the tensor that means nothing without it.
    """
    found = checkpoint.tensors.get(name)
    if found is None:
        raise FamilyError(f"tensor '{beside}' has no '{name}'", "the download may be incomplete")
    if found.dtype not in dtypes:
        raise FamilyError(f"tensor '{name}' is {found.dtype}", f"in its place there must be {' or '.join(dtypes)}")
    if not (found.shape in shapes if shapes else len(found.shape) == 2):
        wanted = " or ".join(str(list(shape)) for shape in shapes) or "two dimensions"
        raise FamilyError(
            f"tensor '{name}' has shape {list(found.shape)}, but {wanted} is needed",
            "config.json and weights belong to different models, or one of them was edited",
        )
    return name


def modules(checkpoint: Checkpoint, ends: Iterable[str]) -> list[str]:
    """The modules that have a tensor with one of these ends: what stands before them, each once, sorted."""
    return sorted({n.removesuffix(end) for n in checkpoint.tensors for end in ends if n.endswith(end)})


def first(checkpoint: Checkpoint, names: Iterable[str]) -> str:
    """The first of these tensors that is there; one of them is."""
    return next(name for name in names if name in checkpoint.tensors)


def title(method: str, bits: int, group: int | None) -> str:
    """What a user calls a form of one group size."""
    return f"{method}, {bits} bits, {'whole rows' if group is None else f'groups of {group}'}"


def choice(quantization: Mapping[str, Any], name: str, default: Any, *known: Any) -> Any:
    """A field of quantization_config. Raises FamilyError, listing what is known, when it has another value."""
    value = quantization.get(name, default)
    if not any(type(value) is type(k) and value == k for k in known):
        raise FamilyError(
            f"config.json: quantization_config has {name} {reprlib.repr(value)}, which is not read",
            f"known: {', '.join(map(repr, known))}",
        )
    return value


def group_size(quantization: Mapping[str, Any]) -> int | None:
    """How many columns share a scale; None for a whole row, which is spelt -1. Raises FamilyError for no number."""
    value = quantization.get("group_size")
    if type(value) is not int or value < -1 or value == 0:
        raise FamilyError(f"config.json: quantization_config has group_size {reprlib.repr(value)}", RELEASE)
    return None if value == -1 else value


def fields(words: np.ndarray, bits: int) -> np.ndarray:
    """The unsigned numbers of 4 or 8 bits in words of 32, lowest bits first: [rows, n] → [rows, n * 32 / bits]."""
    data = np.ascontiguousarray(words.astype("<i4", copy=False)).view(np.uint8)
    if bits == 8:
        return data
    numbers = np.empty((data.shape[0], 2 * data.shape[1]), np.uint8)
    np.bitwise_and(data, 15, out=numbers[:, 0::2])
    np.right_shift(data, 4, out=numbers[:, 1::2])
    return numbers


def group_order(order: np.ndarray, group: int, count: int, name: str) -> np.ndarray | None:
    """The group of each column, or None where they come one after the other, `group` columns each.

    Raises FamilyError for a group that there is not.
    """
    if np.array_equal(order, np.arange(order.size) // group):
        return None
    if order.size and (order.min() < 0 or order.max() >= count):
        raise FamilyError(f"tensor '{name}' names a group beyond the {count} that there are", RELEASE)
    return order.astype(np.intp)
