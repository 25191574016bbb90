"""ONNX Runtime with an execution provider of the user's choice, on the graph as it is deployed."""

from __future__ import annotations

import ctypes
from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from porter.errors import ParityError, known_names
from porter.verify.runtime import GraphFile, Runtime, Value
from porter.verify.session import Arrays, blaming_the_port

CPU = "CPUExecutionProvider"


class Provider(Runtime):
    """A provider by its name. Raises ParityError where the installed ONNX Runtime has none of that name."""

    def __init__(self, name: str) -> None:
        self.name, self._provider = f"provider:{name}", name
        self._nodes: Counter[str] = Counter()  # by the provider that took them
        available = ort.get_available_providers()
        if name not in available:
            raise ParityError(f"ONNX Runtime {ort.__version__} has no '{name}' here", known_names(name, available))
        if not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
            message = f"ONNX Runtime {ort.__version__} does not tell which nodes '{name}' takes"
            raise ParityError(message, "take a newer one, or --runtime with samples/runtime/onnxruntime_program.py")

    def open(self, graph: GraphFile) -> ProviderGraph:
        """One graph. Raises ParityError where the provider does not start or takes no node of it."""
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong comes back as an exception
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        folder = str(graph.path.parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        model = graph.watching if graph.watched else str(graph.path)
        with blaming_the_port("does not load"):
            session = ort.InferenceSession(model, options, providers=list(dict.fromkeys([self._provider, CPU])))
        if self._provider not in session.get_providers():
            message = f"{self._provider} did not start: ONNX Runtime fell back on {session.get_providers()[0]}"
            raise ParityError(message, "its libraries and its driver must be installed; ONNX Runtime's log says more")
        taken = Counter[str]()
        for part in session.get_provider_graph_assignment_info():
            taken[part.ep_name] += len(part.get_nodes())
        if not taken[self._provider]:
            message = f"{self._provider} takes no node of {graph.path.name}: the verdict would be the CPU's"
            raise ParityError(message, "choose a provider that runs the port, or leave --provider out")
        self._nodes += taken
        return ProviderGraph(session, graph)

    def notes(self) -> list[str]:
        """Who ran which share."""
        shares = ", ".join(f"{count} on {name}" for name, count in self._nodes.most_common())
        return [f"the graph as deployed was run by ONNX Runtime {ort.__version__}, nodes {shares}"]


class ProviderGraph:
    """A session."""

    def __init__(self, session: ort.InferenceSession, graph: GraphFile) -> None:
        self._session, self._inputs = session, {value.name: value for value in graph.inputs}
        self._outputs = (*graph.outputs, *graph.watched)
        self.watched = bool(graph.watched)

    def run(self, feed: Arrays) -> Arrays:
        """One call; by the bits of numbers, since ONNX Runtime's own way from and to NumPy knows no bfloat16."""
        given = {name: _to_runtime(self._inputs[name], array) for name, array in feed.items()}
        with blaming_the_port("stops"):
            results = self._session.run_with_ort_values([value.name for value in self._outputs], given)
        return {v.name: _from_runtime(v, result) for v, result in zip(self._outputs, results, strict=True)}


def _to_runtime(value: Value, array: np.ndarray) -> ort.OrtValue:
    onnx_type = int(ir.DataType.from_numpy(value.numpy))
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(value.travels), onnx_type)


def _from_runtime(value: Value, result: ort.OrtValue) -> np.ndarray:
    size = result.tensor_size_in_bytes()
    raw = ctypes.string_at(result.data_ptr(), size) if size else b""
    return np.frombuffer(raw, value.numpy).reshape(result.shape())
