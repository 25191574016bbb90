"""A port called as it is deployed, by whatever runs it: the numbers that come back are the hardware's own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from porter.manifest import Port
from porter.verify.runs import PortRun, as_run
from porter.verify.runtime import GraphFile, Opened, Runtime, graph_files
from porter.verify.session import CHOSEN, PAST, PRESENT, Arrays, Results, by_layer


class DeployedSession:
    """One graph, by its inputs and outputs alone. Floats are handed over and back as float32, which holds any narrower
    number exactly.
    """

    def __init__(self, opened: Opened, graph: GraphFile) -> None:
        self._opened, self._graph = opened, graph

    def cache(self, batch: int, places: int) -> Arrays:
        """A cache of so many places with nothing in them."""
        shapes = {v.name: v.shape for v in self._graph.inputs if v.name.startswith(PAST) and v.shape is not None}
        sizes = {name: [batch, int(shape[1]), places, int(shape[3])] for name, shape in shapes.items()}
        return {name: np.zeros(size, np.float32) for name, size in sizes.items()}

    def run(
        self,
        feed: Mapping[str, np.ndarray],
        routes: Mapping[int, np.ndarray] | None,
        embedding_scale: float,
        hidden: np.ndarray | None = None,
    ) -> Results:
        """One call; a graph as it is deployed takes neither routes nor a scale of its embeddings."""
        assert not routes
        assert embedding_scale == 1.0
        given = {v.name: np.ascontiguousarray(feed[v.name].astype(v.numpy)) for v in self._graph.inputs}
        results = {name: _wide(array) for name, array in self._opened.run(given).items()}
        return Results(
            logits=results["logits"].reshape(*feed["input_ids"].shape, -1),
            layers={},
            router_logits={},
            routes=by_layer(results, CHOSEN),
            cache={n.replace(PRESENT, PAST): a for n, a in results.items() if n.startswith(PRESENT)},
        )


def open_deployed(port: Port, runtime: Runtime) -> PortRun:
    """The port, ready to be called. Raises BrokenPort where it does not load, ParityError where nothing can be run."""
    graphs = graph_files(port)
    return as_run(port, {name: DeployedSession(runtime.open(graph), graph) for name, graph in graphs.items()})


def _wide(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind in "iub" else array.astype(np.float32)
