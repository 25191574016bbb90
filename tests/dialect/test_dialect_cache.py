"""CacheUpdate: the new places stand behind the past ones. CacheWrite: each token stands at its position."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_run import TOLERANCE, compute, lowered, model_of, normals, run

from porter.dialect import CACHE_UPDATE, CACHE_WRITE
from porter.dialect.cache import gather_rows, scatter_rows
from porter.graph import Graph, all_nodes

SELECT = CACHE_WRITE.bodies[0].build
BODIES = {"select": SELECT, "scatter": scatter_rows, "gather": gather_rows}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("past", "new"), [(0, 3), (4, 1), (1, 5)])
def test_new_places_follow_the_past_ones(dtype: str, past: int, new: int) -> None:
    cache, more = normals(dtype, (2, 3, past, 5), (2, 3, new, 5))
    got = compute(CACHE_UPDATE, cache, more)
    assert np.array_equal(got[:, :, :past], cache)
    assert np.array_equal(got[:, :, past:], more)
    assert got.dtype == dtype


def written(cache: np.ndarray, new: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Token by token."""
    result = cache.copy()
    for row, places in enumerate(positions):
        for token, place in enumerate(places):
            result[row, :, place] = new[row, :, token]
    return result


def test_every_body_is_tried() -> None:
    assert [body.build for body in CACHE_WRITE.bodies] == list(BODIES.values())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("body", BODIES)
def test_a_token_goes_to_its_position(body: str, groups: int, dtype: str) -> None:
    positions = np.array([[4], [0]]) if body == "select" else np.array([[4, 5, 2], [0, 1, 6]])
    cache, new = normals(dtype, (2, groups, 7, 5), (2, groups, positions.shape[1], 5))

    def build(graph: Graph, *inputs: ir.Value) -> Any:
        return BODIES[body](graph, *inputs, one=int(body == "select"))

    got = compute(build, cache, new, positions, np.arange(7))
    assert got.dtype == dtype
    assert np.array_equal(got, written(cache, new, positions)), "nothing is computed, so nothing is rounded"


@pytest.mark.parametrize("body", [scatter_rows, gather_rows], ids=lambda body: body.__name__)
def test_a_token_that_comes_twice_is_written_as_it_is(body: Any) -> None:
    """A short call repeats its last token."""
    positions = np.array([[3, 4, 4, 4]])
    cache, new = normals("float32", (1, 2, 6, 3), (1, 2, 4, 3))
    new[:, :, 2:] = new[:, :, 1:2]
    got = compute(lambda graph, *inputs: body(graph, *inputs, one=0), cache, new, positions, np.arange(6))
    assert np.array_equal(got, written(cache, new, positions))


@pytest.mark.parametrize("body", [scatter_rows, gather_rows], ids=lambda body: body.__name__)
def test_the_cache_may_be_a_gear(body: Any) -> None:
    """The same graph with any number of places and tokens."""
    arrays = normals("float32", (2, 3, 7, 5), (2, 3, 2, 5))
    graph = Graph()
    cache = graph.input("cache", ir.DataType.FLOAT, [2, 3, "context", 5])
    new = graph.input("new", ir.DataType.FLOAT, [2, 3, "sequence", 5])
    positions = graph.input("positions", ir.DataType.INT64, [2, "sequence"])
    places = graph.input("places", ir.DataType.INT64, ["context"])
    graph.output(body(graph, cache, new, positions, places, one=0), "out", [2, 3, "context", 5])
    at = np.array([[0, 6], [3, 2]])
    feed = {"cache": arrays[0], "new": arrays[1], "positions": at, "places": np.arange(7)}
    got = run(ir.Model(graph.root, ir_version=8), feed)["out"]
    assert np.array_equal(got, written(*arrays, at))


def test_what_caches_have_in_common_is_computed_once() -> None:
    """Keys and values of every layer go to the same rows."""

    def build(graph: Graph, cache: ir.Value, new: ir.Value, positions: ir.Value, places: ir.Value) -> list[ir.Value]:
        return [CACHE_WRITE(graph, cache, new, positions, places, one=0) for _ in range(2)]

    arrays = [*normals("float32", (1, 2, 6, 3), (1, 2, 4, 3)), np.array([[0, 1, 2, 3]]), np.arange(6)]
    found = [node.op_type for node in all_nodes(lowered(model_of(build, *arrays)).graph)]
    assert (found.count("ScatterND"), found.count("Add")) == (2, 1)
