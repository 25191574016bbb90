"""A program that runs a port on Ascend for `porter verify --runtime`, by pyACL, from what `porter compile` made of it.

    porter compile PORT
    porter verify PORT --against CHECKPOINT --runtime "python3 acl_om.py --device 0"

NOT RUN ON A DEVICE by its author, who has none: it was run against a stand-in for pyACL that keeps its books and lets
ONNX Runtime compute. Names and numbers are those of Huawei's manual of pyACL (CANN 8). Of a port with experts it cannot
show which were chosen, since an .om has the graph's own outputs and no others.

It needs numpy and CANN's `acl` (source set_env.sh), and not porter. docs/runtime.md has the protocol that it keeps.
"""

import argparse
import contextlib
import json
import math
import pathlib
import sys
import time

import acl
import numpy

PROTOCOL = 1
HUGE_FIRST = 0  # ACL_MEM_MALLOC_HUGE_FIRST
TO_DEVICE, TO_HOST = 1, 2  # ACL_MEMCPY_HOST_TO_DEVICE, ACL_MEMCPY_DEVICE_TO_HOST
ND = 2  # ACL_FORMAT_ND
GEAR = "ascend_mbatch_shape_data"  # an input that atc adds where a graph has gears
ACL_TYPES = {
    "float32": 0, "float16": 1, "int8": 2, "int32": 3, "uint8": 4, "int16": 6, "uint16": 7, "uint32": 8, "int64": 9,
    "uint64": 10, "float64": 11, "bool": 12, "bfloat16": 27,
}  # fmt: skip


def travels(dtype):
    """The NumPy dtype that a value has in an .npz file: the bits of a bfloat16 are a uint16."""
    return numpy.dtype("uint16" if dtype == "bfloat16" else dtype)


class AclError(Exception):
    """The device refuses. Anything else is a mistake of this program, or of its surroundings."""


def done(what, status):
    """Nothing, where a call went well."""
    if status != 0:
        raise AclError(f"acl.{what} gave {status}: its meaning is in CANN's list of acl errors")


def had(what, pair):
    """What a call gave that went well."""
    found, status = pair
    done(what, status)
    return found


class Buffers:
    """A dataset: device memory for some arrays, one behind the other; let go of at the end."""

    def __init__(self):
        self.dataset, self.held, self.described = acl.mdl.create_dataset(), [], []

    def add(self, size):
        """Memory of so many bytes, as the next of the dataset; the device has none of zero."""
        pointer = had("rt.malloc", acl.rt.malloc(max(size, 1), HUGE_FIRST))
        buffer = acl.create_data_buffer(pointer, size)
        self.held.append((pointer, buffer, size))
        had("mdl.add_dataset_buffer", acl.mdl.add_dataset_buffer(self.dataset, buffer))

    def put(self, array):
        """The same with an array in it."""
        raw = array.tobytes()
        self.add(len(raw))
        if raw:
            copy = acl.rt.memcpy(self.held[-1][0], len(raw), acl.util.bytes_to_ptr(raw), len(raw), TO_DEVICE)
            done("rt.memcpy", copy)

    def describe(self, index, dtype, shape):
        """What an input of varying sizes is this time."""
        self.described.append(acl.create_tensor_desc(ACL_TYPES[dtype], list(shape), ND))
        found = acl.mdl.set_dataset_tensor_desc(self.dataset, self.described[-1], index)
        had("mdl.set_dataset_tensor_desc", found)

    def get(self, index, dtype, shape):
        """An array that the device wrote."""
        pointer, _, _ = self.held[index]
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return numpy.zeros(shape, dtype)
        host = had("rt.malloc_host", acl.rt.malloc_host(size))
        try:
            done("rt.memcpy", acl.rt.memcpy(host, size, pointer, size, TO_HOST))
            return numpy.frombuffer(acl.util.ptr_to_bytes(host, size), dtype).reshape(shape).copy()
        finally:
            acl.rt.free_host(host)

    def free(self):
        """Lets go of everything."""
        for pointer, buffer, _ in self.held:
            acl.destroy_data_buffer(buffer)
            acl.rt.free(pointer)
        for description in self.described:
            acl.destroy_tensor_desc(description)
        acl.mdl.destroy_dataset(self.dataset)


class Model:
    """An .om that is loaded."""

    def __init__(self, request):
        found = [path for path in request["products"] if path.endswith(".om")]
        beside = pathlib.Path(request["graph"]).with_suffix(".om")
        if not found and not beside.is_file():
            raise FileNotFoundError(f"{request['graph']} was not compiled: run porter compile first")
        self.number = had("mdl.load_from_file", acl.mdl.load_from_file(found[0] if found else str(beside)))
        self.about = acl.mdl.create_desc()
        done("mdl.get_desc", acl.mdl.get_desc(self.about, self.number))
        count = acl.mdl.get_num_inputs(self.about)
        self.names = [acl.mdl.get_input_name_by_index(self.about, n) for n in range(count)]
        self.values = {value["name"]: value for value in request["inputs"]}
        self.outputs = request["outputs"]  # atc keeps their order, and puts names of its own before theirs
        strange = set(self.names) - set(self.values) - {GEAR}
        if strange or acl.mdl.get_num_outputs(self.about) != len(self.outputs):
            raise ValueError(f"the .om is of another graph: inputs {self.names}")

    def run(self, arrays):
        """Arrays in, arrays out, by their names and as they travel; and the seconds that the device took."""
        with contextlib.ExitStack() as stack:
            inputs, outputs = Buffers(), Buffers()
            stack.callback(inputs.free)
            stack.callback(outputs.free)
            for index, name in enumerate(self.names):
                self.give(inputs, index, name, arrays)
            if GEAR in self.names:
                self.shift(inputs, arrays)
            sizes = {
                d: n for v in self.values.values() for d, n in zip(v["shape"], arrays[v["name"]].shape, strict=True)
            }
            shapes = [[sizes.get(size, size) for size in value["shape"]] for value in self.outputs]
            dtypes = [travels(value["dtype"]) for value in self.outputs]
            for index, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True)):
                # For the largest gear; 0 where sizes vary, and then what this call needs.
                largest = acl.mdl.get_output_size_by_index(self.about, index)
                outputs.add(max(largest, math.prod(shape) * dtype.itemsize))
            begun = time.monotonic()
            done("mdl.execute", acl.mdl.execute(self.number, inputs.dataset, outputs.dataset))
            seconds = time.monotonic() - begun
            found = [outputs.get(n, dtypes[n], shapes[n]) for n in range(len(shapes))]
        return {value["name"]: array for value, array in zip(self.outputs, found, strict=True)}, seconds

    def give(self, inputs, index, name, arrays):
        """One input; where its sizes vary between calls they are told beside it."""
        if name == GEAR:
            inputs.add(acl.mdl.get_input_size_by_index(self.about, index))
            return
        inputs.put(arrays[name])
        dims = had("mdl.get_input_dims", acl.mdl.get_input_dims(self.about, index))["dims"]
        if -1 in dims and GEAR not in self.names:
            inputs.describe(index, self.values[name]["dtype"], arrays[name].shape)

    def shift(self, inputs, arrays):
        """Chooses the gear: every size of every input, one behind the other."""
        sizes = [int(size) for name in self.names if name != GEAR for size in arrays[name].shape]
        gear = {"name": "", "dimCount": len(sizes), "dims": sizes}
        index = had("mdl.get_input_index_by_name", acl.mdl.get_input_index_by_name(self.about, GEAR))
        chosen = acl.mdl.set_input_dynamic_dims(self.number, inputs.dataset, index, gear)
        done("mdl.set_input_dynamic_dims", chosen)

    def close(self):
        """Lets go of it."""
        acl.mdl.unload(self.number)
        acl.mdl.destroy_desc(self.about)


class Server:
    """Answers requests; what it loaded it lets go of when the stack is closed."""

    def __init__(self, device, stack):
        self.models, self.stack = {}, stack
        done("init", acl.init())
        stack.callback(acl.finalize)
        done("rt.set_device", acl.rt.set_device(device))
        stack.callback(acl.rt.reset_device, device)
        context = had("rt.create_context", acl.rt.create_context(device))
        stack.callback(acl.rt.destroy_context, context)

    def open(self, request):
        if request["protocol"] != PROTOCOL:
            raise ValueError(f"this program keeps protocol {PROTOCOL}, not {request['protocol']}")
        number = len(self.models) + 1
        self.models[number] = Model(request)
        self.stack.callback(self.models[number].close)
        print(f"opened {request['graph']} as {number}", file=sys.stderr)
        return {"session": number, "device": acl.get_soc_name()}

    def run(self, request):
        with numpy.load(request["inputs"], allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        found, seconds = self.models[request["session"]].run(arrays)
        numpy.savez(request["outputs"], allow_pickle=False, **found)
        return {"seconds": seconds}

    def answer(self, request):
        """What goes wrong with the port is an answer, too: `ok` is false, and `error` says why."""
        try:
            return {"ok": True, **{"open": self.open, "run": self.run}[request["op"]](request)}
        except AclError as error:
            return {"ok": False, "error": str(error)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=int, default=0, help="the number of the card")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        server = Server(arguments.device, stack)
        for line in sys.stdin:
            request = json.loads(line)
            if request["op"] == "close":
                break
            print(json.dumps(server.answer(request)), flush=True)


if __name__ == "__main__":
    main()
