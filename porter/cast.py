"""From one float type to another, once, and never silently to infinity."""

from __future__ import annotations

import numpy as np

from porter.errors import FamilyError


def cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """The array at `dtype`, contiguous; `name` is the tensor's, for the error.

    Raises FamilyError when a value does not fit the dtype: a weight silently become infinite is a broken model.
    """
    if array.dtype == dtype:
        return np.ascontiguousarray(array)
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if dtype.itemsize < array.dtype.itemsize or dtype == np.float16:
        grown = ~np.isfinite(result) & np.isfinite(array)
        if grown.any():
            largest = float(np.abs(array[grown].astype(np.float64)).max())
            raise FamilyError(
                f"tensor '{name}' holds {largest:.3g}, which {dtype.name} cannot",
                "use --dtype float32 or --dtype bfloat16",
            )
    return np.ascontiguousarray(result)
