"""One graph of a port on ONNX Runtime, with its own weights, watched layer by layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from porter.graph import Graph
from porter.manifest import Port
from porter.verify.cut import EMBEDDED, cut
from porter.verify.emulate import emulate, narrow_weights
from porter.verify.stages import Stage
from porter.verify.widen import Weights, widen

NUMPY: dict[str, np.dtype] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(int64)": np.dtype(np.int64),
}  # all that a widened port has
WATCHED = {"layers": r"(?:.*\.)?layers\.(\d+)\.output", "router_logits": r"(?:.*\.)?layers\.(\d+)\..*\.logits"}
CHOSEN = r"(?:.*\.)?layers\.(\d+)\..*\.experts"
FORCED, OWN = ".forced", ".own"
SCALE = "embedding_scale"
PAST, PRESENT = "past_key_values.", "present."

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Results:
    """What one call of a graph with sizes [b, s] computed; the cache by the names of the inputs that it goes into."""

    logits: np.ndarray  # [b, s, V]; of a stage without the head, what comes out of its last layer [b, s, D]
    layers: dict[int, np.ndarray]  # layer → [b * s, D]
    router_logits: dict[int, np.ndarray]  # layer → [b * s, E]
    routes: dict[int, np.ndarray]  # layer → [b * s, K]: its own choice, whatever was forced
    cache: Arrays  # [b, heads, places, width]


class BrokenPort(Exception):
    """The port does not load or does not run, which is a finding, not an error of the comparison."""


class Session(Protocol):
    """One graph of a port that can be called."""

    def cache(self, batch: int, places: int) -> Arrays:
        """A cache of so many places with nothing in them."""

    def run(
        self,
        feed: Mapping[str, np.ndarray],
        routes: Mapping[int, np.ndarray] | None,
        embedding_scale: float,
        hidden: np.ndarray | None = None,
    ) -> Results:
        """One call."""


class GraphSession:
    """Runs one graph of a port, or what of it a stage has. A narrow one is widened: the same graph, node by
    node, in float32, with `wide` weights of the source; or, `deployed`, its dtype is emulated, with the weights
    of its own files. With `forced` routers, the experts are an input of every call.
    """

    def __init__(
        self,
        port: Port,
        graph: Path,
        wide: Callable[[frozenset[str]], Weights],
        *,
        forced: bool,
        deployed: bool = False,
        stage: Stage | None = None,
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong comes back as an exception
        if stage is not None:  # each weight is read a few times and let go: a rearranged copy does not pay
            options.add_session_config_entry("session.disable_prepacking", "1")
        if port.cards > 1:  # threads of many segments would wait for work where others work
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(port.folder))
        with blaming_the_port("does not load"):
            built = ir.from_proto(onnx.load(graph, load_external_data=False))
            self._hidden = cut(built, stage) if stage is not None else None
            self._last = next(str(v.name) for v in built.graph.outputs if not str(v.name).startswith(PRESENT))
            if port.dtype != "float32":
                weights = narrow_weights(built, port.folder) if deployed else wide(stored(built))
                (emulate if deployed else widen)(built)
                options.add_external_initializers(*weights)
            self._chosen = self._force(built) if forced else {}
            self._scale(built)
            self._watch(built)
            proto = ir.to_proto(built).SerializeToString()
            self._session = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._outputs = [o.name for o in self._session.get_outputs()]

    def cache(self, batch: int, places: int) -> Arrays:
        """A cache of so many places with nothing in them."""
        inputs = {name: i for name, i in self._inputs.items() if name.startswith(PAST)}
        return {n: np.zeros([batch, i.shape[1], places, i.shape[3]], NUMPY[i.type]) for n, i in inputs.items()}

    def run(
        self,
        feed: Mapping[str, np.ndarray],
        routes: Mapping[int, np.ndarray] | None,
        embedding_scale: float,
        hidden: np.ndarray | None = None,
    ) -> Results:
        """One call; routes per layer where the graph is forced. Embeddings are multiplied by `embedding_scale`, a power
        of two: that is exact. A stage without them is given `hidden` [b, s, D].
        """
        given = dict(feed)
        if self._hidden is not None and hidden is not None:
            rows = re.fullmatch(EMBEDDED, self._hidden)  # [b, s, D]; between layers [b * s, D]
            given[self._hidden] = hidden if rows else hidden.reshape(-1, hidden.shape[-1])
        results = self.compute(given, routes, embedding_scale)
        last = results[self._last]
        if re.fullmatch(EMBEDDED, self._last):  # there is nothing behind it that reads the scaled ones
            last = last * np.float32(embedding_scale)
        return results_of(results, last.reshape(*feed["input_ids"].shape, -1), forced=bool(self._chosen))

    def compute(
        self, feed: Mapping[str, np.ndarray], routes: Mapping[int, np.ndarray] | None, embedding_scale: float
    ) -> Arrays:
        """All outputs by name; of `feed` what the graph has inputs for."""
        given = dict(feed) | {name + FORCED: (routes or {})[layer] for layer, name in self._chosen.items()}
        given[SCALE] = np.array(embedding_scale)
        given = {
            n: np.asarray(a, NUMPY[self._inputs[n].type], order="C") for n, a in given.items() if n in self._inputs
        }
        with blaming_the_port("stops"):
            return dict(zip(self._outputs, self._session.run(None, given), strict=True))

    def _scale(self, built: ir.Model) -> None:
        """Makes the size of the embeddings an input."""
        scale = ir.Value(name=SCALE, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
        built.graph.inputs.append(scale)
        graph = Graph(built.graph)
        for value in [v for v in _values(built) if re.fullmatch(EMBEDDED, str(v.name)) and v.uses()]:
            readers = list(value.uses())
            with graph.before(readers[0].node):
                scaled = graph.op.Mul(value, scale)
            for reader in readers:
                reader.node.replace_input_with(reader.idx, scaled)

    def _watch(self, built: ir.Model) -> None:
        """Makes the named values of the graph outputs."""
        patterns = [re.compile(p) for p in (*WATCHED.values(), CHOSEN, CHOSEN + re.escape(OWN))]
        for value in _values(built):
            if any(p.fullmatch(str(value.name)) for p in patterns) and not value.is_graph_output():
                built.graph.outputs.append(value)

    def _force(self, built: ir.Model) -> dict[int, str]:
        """Cuts each router's choice: what follows reads an input instead, the choice itself is only watched."""
        chosen = {}
        for value in list(_values(built)):
            match = re.fullmatch(CHOSEN, str(value.name))
            if match:
                name = chosen[int(match[1])] = str(value.name)
                forced = ir.Value(name=name + FORCED, type=value.type, shape=value.shape)
                ir.convenience.replace_all_uses_with(value, forced)
                built.graph.inputs.append(forced)
                value.name = name + OWN
        return chosen


def results_of(outputs: Mapping[str, np.ndarray], logits: np.ndarray, *, forced: bool) -> Results:
    """The watched values among a call's outputs."""
    return Results(
        logits=logits,
        layers=by_layer(outputs, WATCHED["layers"]),
        router_logits=by_layer(outputs, WATCHED["router_logits"]),
        routes=by_layer(outputs, CHOSEN + (re.escape(OWN) if forced else "")),
        cache={n.replace(PRESENT, PAST): a for n, a in outputs.items() if n.startswith(PRESENT)},
    )


@contextmanager
def blaming_the_port(what: str) -> Iterator[None]:
    """Whatever ONNX Runtime raises, and the readers of graphs, is a BrokenPort."""
    try:
        yield
    except Exception as error:  # ONNX Runtime, protobuf and onnx-ir raise types of their own, unrelated to one another
        raise BrokenPort(f"ONNX Runtime {what}: {str(error).splitlines()[0]}") from error


def stored(built: ir.Model) -> frozenset[str]:
    """The weights that lie in files."""
    weights = built.graph.initializers.items()
    return frozenset(str(name) for name, value in weights if isinstance(value.const_value, ir.ExternalTensor))


def _values(built: ir.Model) -> Iterator[ir.Value]:
    return (value for node in built.graph for value in node.outputs if value.name)


def by_layer(results: Mapping[str, Any], pattern: str) -> dict[int, np.ndarray]:
    """Of all results those whose names are of a pattern, by the layer's number in it."""
    matches = ((re.fullmatch(pattern, name), array) for name, array in results.items())
    return {int(match[1]): array for match, array in matches if match}
