"""CacheUpdate: the new places stand behind the past ones."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_run import TOLERANCE, compute, normals

from porter.dialect import CACHE_UPDATE


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("past", "new"), [(0, 3), (4, 1), (1, 5)])
def test_new_places_follow_the_past_ones(dtype: str, past: int, new: int) -> None:
    cache, more = normals(dtype, (2, 3, past, 5), (2, 3, new, 5))
    got = compute(CACHE_UPDATE, cache, more)
    assert np.array_equal(got[:, :, :past], cache)
    assert np.array_equal(got[:, :, past:], more)
    assert got.dtype == dtype
