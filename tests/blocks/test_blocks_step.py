"""Masks against a loop over every query and key."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_run import FLOAT, INT64, compute

from porter.blocks.step import GrowingStep, PositionedStep
from porter.graph import Graph
from porter.shape import Sizes


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
        return GrowingStep(graph, FLOAT, ids, ids, mask).mask(window)

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
    step = GrowingStep(graph, FLOAT, ids, ids, ids)
    assert step.mask(3) is step.mask(3)
    assert step.mask(None) is not step.mask(3)
    assert step.shape("new", 4) is step.shape("new", 4)
    assert step.shape("total", 4) is not step.shape("new", 4)


# ------------------------------------------------------------------------------ a cache of fixed size


def positioned(window: int | None, positions: np.ndarray, real: np.ndarray, sizes: Sizes) -> np.ndarray:
    def build(graph: Graph, positions: ir.Value, mask: ir.Value) -> ir.Value:
        return PositionedStep(graph, FLOAT, positions, positions, mask, sizes).mask(window)

    return compute(build, positions, real)


@pytest.mark.parametrize("context", [9, "context"])
@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_places_are_positions_where_the_cache_has_a_fixed_size(window: int | None, context: int | str) -> None:
    positions = np.array([[3, 4, 5], [0, 1, 1]])  # the second row repeats its last token
    real = np.array([[1, 1, 0, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0, 0]])
    got = positioned(window, positions, real, Sizes(2, 3, context))
    for row, query, key in np.ndindex(2, 3, 9):
        place = positions[row, query]
        expected = real[row, key] and key <= place and (window is None or place - key < window)
        assert got[row, 0, query, key] == bool(expected)


def test_sizes_that_are_numbers_leave_no_shape_to_be_computed() -> None:
    graph = Graph()
    ids = graph.input("ids", INT64, [2, 3])
    step = PositionedStep(graph, FLOAT, ids, ids, graph.input("mask", INT64, [2, 9]), Sizes(2, 3, 9))
    step.mask(4)
    assert step.shape("new", 5).const_value is not None
    assert step.shape("total", 5).const_value is not None
    assert not {"Shape", "Range"} & {node.op_type for node in graph.root}
