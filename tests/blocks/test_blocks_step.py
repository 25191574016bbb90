"""Masks against a loop over every query and key."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_run import FLOAT, INT64, compute

from porter.blocks.step import Step
from porter.graph import Graph


def visible(window: int | None, sequence: int, real: np.ndarray) -> np.ndarray:
    """Query i stands behind all that is cached; it sees real keys up to itself, the last `window` of them."""
    batch, total = real.shape
    mask = np.zeros((batch, 1, sequence, total), bool)
    for b, i, key in np.ndindex(batch, sequence, total):
        place = total - sequence + i
        mask[b, 0, i, key] = real[b, key] and key <= place and (window is None or place - key < window)
    return mask


def computed(window: int | None, sequence: int, real: np.ndarray) -> np.ndarray:
    def build(graph: Graph, ids: ir.Value, mask: ir.Value) -> ir.Value:
        return Step(graph, FLOAT, ids, ids, mask).mask(window)

    return compute(build, np.zeros((len(real), sequence), np.int64), real)


@pytest.mark.parametrize("window", [None, 1, 3, 7, 100])
@pytest.mark.parametrize(("sequence", "total"), [(1, 1), (5, 5), (1, 9), (4, 9), (9, 12)])
@pytest.mark.parametrize("padding", [(0,), (0, 2, 5)], ids=["alone", "padded"])
def test_who_may_look_at_whom(window: int | None, sequence: int, total: int, padding: tuple[int, ...]) -> None:
    real = (np.arange(total) >= np.array(padding)[:, None]).astype(np.int64)
    got = computed(window, sequence, real)
    assert got.dtype == bool
    assert np.array_equal(got, visible(window, sequence, real))


def test_places_count_and_not_positions() -> None:
    """A masked place in the middle, or a masked first place of a cache, shifts no window."""
    real = np.array([[0, 1, 1, 0, 1, 1]])
    assert np.array_equal(computed(3, 2, real), visible(3, 2, real))


def test_masks_and_shapes_are_built_once() -> None:
    graph = Graph()
    ids = graph.input("ids", INT64, ["batch", "sequence"])
    step = Step(graph, FLOAT, ids, ids, ids)
    assert step.mask(3) is step.mask(3)
    assert step.mask(None) is not step.mask(3)
    assert step.shape("new", 4) is step.shape("new", 4)
    assert step.shape("total", 4) is not step.shape("new", 4)
