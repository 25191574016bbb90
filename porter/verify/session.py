"""The port on ONNX Runtime: its own graph with its own weights, watched layer by layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from porter.graph import Graph
from porter.manifest import Port
from porter.model import Model
from porter.verify.emulate import emulate, narrow_weights
from porter.verify.widen import wide_weights, widen

NUMPY: dict[str, np.dtype] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(int64)": np.dtype(np.int64),
}  # all that a widened port has
WATCHED = {"layers": r"(?:.*\.)?layers\.(\d+)\.output", "router_logits": r"(?:.*\.)?layers\.(\d+)\..*\.logits"}
CHOSEN = r"(?:.*\.)?layers\.(\d+)\..*\.experts"
FORCED, OWN = ".forced", ".own"
EMBEDDED, SCALE = r"(?:.*\.)?embed_tokens\.rows", "embedding_scale"


@dataclass(frozen=True)
class PortTrace:
    """What one call of the port computed; the first `minimum_past` masked cache places are left out."""

    logits: np.ndarray  # [B, S, V]
    layers: dict[int, np.ndarray]  # layer → [B * S, D]
    router_logits: dict[int, np.ndarray]  # layer → [B * S, E]
    routes: dict[int, np.ndarray]  # layer → [B * S, K]: its own choice, whatever was forced
    cache: dict[str, np.ndarray]  # "3.key" → [B, heads, T, width]


@dataclass(frozen=True)
class PortPast:
    """The cache as the port holds it, and the mask of its places."""

    cache: dict[str, np.ndarray]
    mask: np.ndarray  # [B, places]

    def with_gap(self, places: int) -> PortPast:
        """The same with empty places behind it, which the mask hides."""
        cache = {name: np.pad(a, ((0, 0), (0, 0), (0, places), (0, 0))) for name, a in self.cache.items()}
        return PortPast(cache, np.pad(self.mask, ((0, 0), (0, places))))


class BrokenPort(Exception):
    """The port does not load or does not run, which is a finding, not an error of the comparison."""


class PortSession:
    """Runs a port. In float16 or bfloat16 it is widened: the same graph, node for node, in float32, with weights
    taken from the source; or, `deployed`, its dtype is emulated, with the weights of its own files. With `forced`
    routers, the experts are an input of every call.
    """

    def __init__(self, port: Port, model: Model, *, forced: bool, deployed: bool = False) -> None:
        self.minimum_past = int(port.manifest["minimum_past"])
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong comes back as an exception
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(port.folder))
        with _blaming_the_port("does not load"):
            built = ir.from_proto(onnx.load(port.graph, load_external_data=False))
            if port.dtype != "float32":
                weights = narrow_weights(built, port.folder) if deployed else wide_weights(model)
                (emulate if deployed else widen)(built)
                options.add_external_initializers(*weights)
            self._chosen = self._force(built) if forced else {}
            self._scale(built)
            self._watch(built)
            proto = ir.to_proto(built).SerializeToString()
            self._session = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._outputs = [o.name for o in self._session.get_outputs()]

    def run(
        self,
        input_ids: np.ndarray,
        position_ids: np.ndarray,
        mask: np.ndarray,
        past: PortPast | None = None,
        routes: Mapping[int, np.ndarray] | None = None,
        embedding_scale: float = 1.0,
    ) -> tuple[PortTrace, PortPast]:
        """One call: ids, positions and mask [B, S] of the new tokens; routes per layer where the port is forced.

        Embeddings are multiplied by `embedding_scale`, a power of two: that is exact.
        """
        past = past or self._empty(len(input_ids))
        whole = np.concatenate([past.mask, mask], axis=1)
        feed = {"input_ids": input_ids, "position_ids": position_ids, "attention_mask": whole, **past.cache}
        feed |= {name + FORCED: (routes or {})[layer] for layer, name in self._chosen.items()}
        feed[SCALE] = np.array(embedding_scale)
        feed = {name: np.asarray(a, dtype=NUMPY[self._inputs[name].type], order="C") for name, a in feed.items()}
        with _blaming_the_port("stops"):
            results = dict(zip(self._outputs, self._session.run(None, feed), strict=True))
        present = {n.removeprefix("present."): a for n, a in results.items() if n.startswith("present.")}
        trace = PortTrace(
            logits=results["logits"],
            layers=_by_layer(results, WATCHED["layers"]),
            router_logits=_by_layer(results, WATCHED["router_logits"]),
            routes=_by_layer(results, CHOSEN + (re.escape(OWN) if self._chosen else "")),
            cache={name: a[:, :, self.minimum_past :] for name, a in present.items()},
        )
        return trace, PortPast({f"past_key_values.{n}": a for n, a in present.items()}, whole)

    def _empty(self, batch: int) -> PortPast:
        """An empty cache; where a front end takes none, `minimum_past` places that the mask hides."""
        cache = {
            name: np.zeros([batch, i.shape[1], self.minimum_past, i.shape[3]], NUMPY[i.type])
            for name, i in self._inputs.items()
            if name.startswith("past_key_values.")
        }
        return PortPast(cache, np.zeros((batch, self.minimum_past), np.int64))

    def _scale(self, built: ir.Model) -> None:
        """Makes the size of the embeddings an input."""
        scale = ir.Value(name=SCALE, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
        built.graph.inputs.append(scale)
        graph = Graph(built.graph)
        for value in [v for v in _values(built) if re.fullmatch(EMBEDDED, str(v.name))]:
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


@contextmanager
def _blaming_the_port(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime, protobuf and onnx-ir raise types of their own, unrelated to one another
        raise BrokenPort(f"ONNX Runtime {what}: {str(error).splitlines()[0]}") from error


def _values(built: ir.Model) -> Iterator[ir.Value]:
    return (value for node in built.graph for value in node.outputs if value.name)


def _by_layer(results: Mapping[str, Any], pattern: str) -> dict[int, np.ndarray]:
    matches = ((re.fullmatch(pattern, name), array) for name, array in results.items())
    return {int(match[1]): array for match, array in matches if match}
