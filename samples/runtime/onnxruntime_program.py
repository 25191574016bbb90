"""A program that runs a port for `porter verify --runtime`, with ONNX Runtime and any of its execution providers.

    porter verify PORT --against CHECKPOINT --runtime "python3 onnxruntime_program.py"
    porter verify PORT --against CHECKPOINT --runtime "python3 onnxruntime_program.py --provider CUDAExecutionProvider"

A provider in a package of its own, a plug-in, is named with that package, as Moore Threads' is:

    --runtime "python3 onnxruntime_program.py --provider MUSAExecutionProvider --plugin onnxruntime_musa"

It needs numpy and onnxruntime, and not porter. docs/runtime.md has the protocol that it keeps: a request is a
line of JSON on stdin, its answer a line of JSON on stdout, and everything else belongs on stderr.
"""

import argparse
import collections
import contextlib
import ctypes
import importlib
import json
import pathlib
import sys
import time

import numpy
import onnxruntime

PROTOCOL = 1
# ONNX's numbers of element types, by the names that requests have.
ONNX_TYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9,
    "float16": 10, "float64": 11, "uint32": 12, "uint64": 13, "bfloat16": 16,
}  # fmt: skip


class PortFault(Exception):
    """The port does not load or run here. Anything else is a mistake of this program, or of its surroundings."""


@contextlib.contextmanager
def blaming_the_port():
    """Whatever ONNX Runtime raises, its first line."""
    try:
        yield
    except Exception as error:
        raise PortFault(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def travels(dtype):
    """The NumPy dtype that a value has in an .npz file: the bits of a bfloat16 are a uint16."""
    return numpy.dtype("uint16" if dtype == "bfloat16" else dtype)


class Graph:
    """A graph that is open, and what it takes and gives."""

    def __init__(self, request, options, providers):
        folder = str(pathlib.Path(request["graph"]).parent)  # where the weights lie
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        model = request["graph"]
        self.outputs = request["outputs"]
        if request["watched"]:  # the same graph, with the choices of experts as outputs
            model = pathlib.Path(request["watched"]).read_bytes()
            self.outputs = self.outputs + request["watch"]
        self.inputs = {value["name"]: value for value in request["inputs"]}
        with blaming_the_port():
            self.session = onnxruntime.InferenceSession(model, options, providers=providers)

    def shares(self):
        """How many nodes each provider took, where this ONNX Runtime tells it: what one does not take the CPU does."""
        if not hasattr(self.session, "get_provider_graph_assignment_info"):
            return ""
        taken = collections.Counter()
        for part in self.session.get_provider_graph_assignment_info():
            taken[part.ep_name] += len(part.get_nodes())
        return ", nodes " + ", ".join(f"{count} on {name}" for name, count in taken.most_common())

    def run(self, arrays):
        """Arrays in, arrays out, by their names and as they travel."""
        feed = {}
        for name, array in arrays.items():
            kind = ONNX_TYPES[self.inputs[name]["dtype"]]
            feed[name] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, kind)
        with blaming_the_port():
            results = self.session.run_with_ort_values([value["name"] for value in self.outputs], feed)
        return {value["name"]: self.bits(value, found) for value, found in zip(self.outputs, results, strict=True)}

    def bits(self, value, found):
        """ONNX Runtime gives NumPy no bfloat16, so its memory is read."""
        size = found.tensor_size_in_bytes()
        raw = ctypes.string_at(found.data_ptr(), size) if size else b""
        return numpy.frombuffer(raw, travels(value["dtype"])).reshape(found.shape())


class Server:
    """Answers requests."""

    def __init__(self, provider, plugin):
        self.provider, self.plugin, self.graphs = provider, plugin, {}
        self.devices = []
        if plugin:
            library = importlib.import_module(plugin).get_library_path()
            onnxruntime.register_execution_provider_library(provider, library)
            self.devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]

    def options(self):
        """Of a session, and the providers that are named beside them: a plug-in's devices stand in the options."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self.plugin:
            options.add_provider_for_devices(self.devices, {})
            return options, None
        return options, list(dict.fromkeys([self.provider, "CPUExecutionProvider"]))

    def open(self, request):
        if request["protocol"] != PROTOCOL:
            raise ValueError(f"this program keeps protocol {PROTOCOL}, not {request['protocol']}")
        graph = Graph(request, *self.options())
        if self.provider not in graph.session.get_providers():
            raise RuntimeError(f"{self.provider} did not start")
        number = len(self.graphs) + 1
        self.graphs[number] = graph
        print(f"opened {request['graph']} as {number}", file=sys.stderr)
        version = f"onnxruntime {onnxruntime.__version__}{graph.shares()}"
        return {"session": number, "device": self.provider, "version": version, "watched": bool(request["watched"])}

    def run(self, request):
        with numpy.load(request["inputs"], allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        begun = time.monotonic()
        found = self.graphs[request["session"]].run(arrays)
        seconds = time.monotonic() - begun
        numpy.savez(request["outputs"], allow_pickle=False, **found)
        return {"seconds": seconds}

    def answer(self, request):
        """What goes wrong with the port is an answer, too: `ok` is false, and `error` says why."""
        try:
            return {"ok": True, **{"open": self.open, "run": self.run}[request["op"]](request)}
        except PortFault as fault:
            return {"ok": False, "error": str(fault)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--provider", default="CPUExecutionProvider", help="ONNX Runtime's name of it")
    parser.add_argument("--plugin", help="the Python package that brings it, where it is a plug-in")
    arguments = parser.parse_args()
    server = Server(arguments.provider, arguments.plugin)
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "close":
            break
        print(json.dumps(server.answer(request)), flush=True)


if __name__ == "__main__":
    main()
