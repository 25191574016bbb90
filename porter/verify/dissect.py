"""A port's graph cut at every place that can be compared: each block is given what the original has, and none of them
what the block before it made.

So the error of a block is its own, whatever is wrong elsewhere, and a block can be taken out and run alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from porter.manifest import Port
from porter.verify.counterparts import has_counterpart
from porter.verify.cut import EMBEDDED, cut
from porter.verify.inner import Moment, Source
from porter.verify.pieces import Piece
from porter.verify.semantics import ToEntries
from porter.verify.session import NUMPY, PAST, Arrays, blaming_the_port, stored
from porter.verify.stages import Stage
from porter.verify.taps import Tap, taps_of
from porter.verify.widen import Weights, widen

GIVEN = ".given"


class Dissection:
    """One graph of a port, or what of it a stage has; a narrow one is widened. Its `taps` are in their order."""

    def __init__(
        self,
        port: Port,
        graph: Path,
        wide: Callable[[frozenset[str]], Weights],
        stage: Stage | None,
        modules: Mapping[str, bool],
    ) -> None:
        self._folder = port.folder
        self._wide = wide if port.dtype != "float32" else None
        self._weights: Weights = ([], [])
        self._session: ort.InferenceSession | None = None
        with blaming_the_port("does not load"):
            self._model = ir.from_proto(onnx.load(graph, load_external_data=False))
            self._hidden = cut(self._model, stage) if stage is not None else None
            if self._wide is not None:
                widen(self._model)
        self.taps = taps_of(self._model, modules)

    def sources(self) -> set[Source]:
        """What is to be recorded of the original."""
        return {tap.source for tap in self.taps if tap.source}

    def open(self, moment: Moment) -> None:
        """Cuts the graph, once, and makes it ready to run. A place that has no counterpart after all, as a `moment` of
        the original shows, is left alone.
        """
        if self._session is not None:
            return
        values = {str(v.name): v for node in self._model.graph for v in node.outputs}
        self.taps = [tap for tap in self.taps if has_counterpart(tap, moment)]
        for tap in self.taps:
            value = values[tap.value]
            given = ir.Value(name=tap.value + GIVEN, type=value.type)
            for reader in list(value.uses()):
                reader.node.replace_input_with(reader.idx, given)
            if given.uses():
                self._model.graph.inputs.append(given)
            if not value.is_graph_output():
                self._model.graph.outputs.append(value)
        if self._wide is not None:  # now, when the original is out of memory
            self._weights = self._wide(stored(self._model))
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self._folder))
        if self._weights[0]:
            options.add_external_initializers(*self._weights)
        with blaming_the_port("does not load in blocks"):
            proto = ir.to_proto(self._model).SerializeToString()
            self._session = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])

    def run(self, feed: Arrays) -> Arrays:
        """What each block makes of what it is given, by the names of the taps."""
        assert self._session is not None
        names = [tap.value for tap in self.taps]
        wanted = {i.name: np.ascontiguousarray(feed[i.name], NUMPY.get(i.type)) for i in self._session.get_inputs()}
        with blaming_the_port("stops"):
            return dict(zip(names, self._session.run(names, wanted), strict=True))

    def given(self, alone: ir.Model, feed: Mapping[str, np.ndarray]) -> Arrays:
        """What a block taken out of this graph is to be fed with."""
        arrays = {v: feed.get(f"{v.name}{GIVEN}", feed.get(str(v.name))) for v in alone.graph.inputs}
        return {str(v.name): np.ascontiguousarray(a, v.dtype.numpy()) for v, a in arrays.items() if v.dtype}

    def feed(
        self, piece: Piece, moment: Moment, expected: Mapping[str, np.ndarray], scale: float, to_entries: ToEntries
    ) -> Arrays:
        """All that the cut graph can be given: the inputs that it has anyway, and the exact value at every tap, that of
        the embedding times its `scale`.
        """
        feed = piece.feed | self._past(piece, moment, to_entries)
        for tap in self.taps:
            feed[tap.value + GIVEN] = expected[tap.value] * scale if tap.embedding else expected[tap.value]
        if self._hidden is not None and moment.hidden is not None:
            hidden, rows = piece.tokens(moment.hidden), re.fullmatch(EMBEDDED, self._hidden)
            feed[self._hidden] = hidden if rows else hidden.reshape(-1, hidden.shape[-1])  # between layers [b * s, D]
        return feed

    def _past(self, piece: Piece, moment: Moment, to_entries: ToEntries) -> Arrays:
        """The exact cache before the piece."""
        names: dict[int, list[ir.Value]] = {}
        for value in self._model.graph.inputs:
            if str(value.name).startswith(PAST):
                names.setdefault(int(str(value.name).split(".")[1]), []).append(value)
        found = {}
        for layer, values in names.items():
            for value, entry in zip(values, to_entries(*moment.trace.cache[layer]), strict=True):
                found[str(value.name)] = piece.cached(entry, piece.before)
        return found

    def alone(self, tap: Tap) -> ir.Model:
        """What computes a tap's value from the nearest others, with its weights: a model of its own, whose inputs are
        called as the values are in the port.
        """
        whole = self._model.graph
        value = next(v for node in whole for v in node.outputs if v.name == tap.value)
        part = ir.convenience.extract(whole, list(whole.inputs), [value])
        for given in [v for v in part.inputs if not v.uses()]:
            part.inputs.remove(given)
        for given in part.inputs:
            given.name = str(given.name).removesuffix(GIVEN)
        wide = dict(zip(*self._weights, strict=True))
        for name, weight in part.initializers.items():
            if name in wide:
                weight.const_value = ir.Tensor(wide[name].numpy().copy(), name=name)  # a view ends with this cut
            elif isinstance(tensor := weight.const_value, ir.ExternalTensor):
                tensor.base_dir = self._folder
                weight.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)  # mapped, not read
        return ir.Model(part, ir_version=self._model.ir_version, functions=list(self._model.functions.values()))
