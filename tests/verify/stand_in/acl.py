"""Stands in for pyACL: keeps its books of memory and datasets, and lets ONNX Runtime compute.

An .om is the .onnx of the same name beside it. What was not let go of when it is finalized goes to stderr, and so does
each gear that was chosen.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

GEAR = "ascend_mbatch_shape_data"
KINDS = {"tensor(float16)": "float16", "tensor(float)": "float32", "tensor(int64)": "int64"}
numbers = itertools.count(1)
held: dict[Any, Any] = {}  # whatever was made and not destroyed, by its number


def made(thing: Any) -> int:
    number = next(numbers)
    held[number] = thing
    return number


def destroyed(number: int) -> int:
    del held[number]
    return 0


def malloc(size: int, policy: int = 0) -> tuple[int, int]:
    assert size > 0
    memory = ctypes.create_string_buffer(size)
    held["memory", ctypes.addressof(memory)] = memory
    return ctypes.addressof(memory), 0


def free(pointer: int) -> int:
    del held["memory", pointer]
    return 0


def memcpy(to: int, room: int, source: int, size: int, kind: int) -> int:
    assert size <= room
    assert kind in {1, 2}
    ctypes.memmove(to, source, size)
    return 0


class Om:
    def __init__(self, path: str) -> None:
        self.session = ort.InferenceSession(Path(path).with_suffix(".onnx"), providers=["CPUExecutionProvider"])
        porter = json.loads(Path(path).with_name("porter.json").read_bytes())
        entry = next(g for g in porter["graphs"] if g["file"] == Path(path).with_suffix(".onnx").name)
        self.geared = "gears" in entry
        self.inputs = [value.name for value in self.session.get_inputs()] + [GEAR] * self.geared
        self.gear: list[int] = []

    def dims(self, index: int) -> list[int]:
        if self.inputs[index] == GEAR:
            return [4]
        return [size if isinstance(size, int) else -1 for size in self.session.get_inputs()[index].shape]

    def bytes_of(self, index: int) -> int:
        value = self.session.get_outputs()[index]
        sizes = [size if isinstance(size, int) else 0 for size in value.shape]
        return int(np.prod(sizes)) * np.dtype(KINDS[value.type]).itemsize

    def shapes(self, dataset: Any) -> list[list[int]]:
        fixed = [self.dims(n) for n in range(len(self.inputs) - self.geared)]
        if self.geared:
            gear = iter(self.gear)
            return [[next(gear) for _ in dims] for dims in fixed]
        return [dataset.described.get(n, dims) for n, dims in enumerate(fixed)]

    def execute(self, given: Any, wanted: Any) -> int:
        feed = {}
        for value, shape, number in zip(self.session.get_inputs(), self.shapes(given), given.buffers, strict=False):
            buffer, dtype = held[number], np.dtype(KINDS[value.type])
            assert buffer.size == int(np.prod(shape)) * dtype.itemsize, value.name
            feed[value.name] = np.frombuffer(ctypes.string_at(buffer.pointer, buffer.size), dtype).reshape(shape)
        for number, array in zip(wanted.buffers, self.session.run(None, feed), strict=True):
            assert array.nbytes <= held[number].size
            ctypes.memmove(held[number].pointer, array.tobytes(), array.nbytes)
        return 0


def load(path: str) -> tuple[int, int]:
    return (made(Om(path)), 0) if Path(path).is_file() else (0, 145000)


def describe(description: int, model: int) -> int:
    held[description].model = held[model]
    return 0


def of(description: int) -> Om:
    model: Om = held[description].model
    return model


def add(dataset: int, buffer: int) -> tuple[int, int]:
    held[dataset].buffers.append(buffer)
    return dataset, 0


def set_tensor(dataset: int, description: int, index: int) -> tuple[int, int]:
    held[dataset].described[index] = held[description]
    return dataset, 0


def set_gear(model: int, dataset: int, index: int, gear: dict[str, Any]) -> int:
    assert held[model].inputs[index] == GEAR
    assert gear["dimCount"] == len(gear["dims"])
    held[model].gear = gear["dims"]
    print("gear", *gear["dims"][:2], file=sys.stderr)
    return 0


def init() -> int:
    return 0


def finalize() -> int:
    print("left over:", len(held), file=sys.stderr)
    return 0


def get_soc_name() -> str:
    return "Stand-in 1"


def create_data_buffer(pointer: int, size: int) -> int:
    return made(SimpleNamespace(pointer=pointer, size=size))


def create_tensor_desc(dtype: int, shape: list[int], layout: int) -> int:
    assert layout == 2
    return made(shape)


destroy_data_buffer = destroy_tensor_desc = destroyed
rt = SimpleNamespace(
    set_device=lambda number: 0,
    reset_device=lambda number: 0,
    create_context=lambda number: (made("context"), 0),
    destroy_context=destroyed,
    malloc=malloc,
    free=free,
    malloc_host=malloc,
    free_host=free,
    memcpy=memcpy,
)
mdl = SimpleNamespace(
    load_from_file=load,
    unload=destroyed,
    create_desc=lambda: made(SimpleNamespace(model=None)),
    destroy_desc=destroyed,
    get_desc=describe,
    get_num_inputs=lambda description: len(of(description).inputs),
    get_num_outputs=lambda description: len(of(description).session.get_outputs()),
    get_input_name_by_index=lambda description, index: of(description).inputs[index],
    get_input_index_by_name=lambda description, name: (of(description).inputs.index(name), 0),
    get_input_dims=lambda description, index: ({"dims": of(description).dims(index)}, 0),
    get_input_size_by_index=lambda description, index: 32,
    get_output_size_by_index=lambda description, index: of(description).bytes_of(index),
    create_dataset=lambda: made(SimpleNamespace(buffers=[], described={})),
    destroy_dataset=destroyed,
    add_dataset_buffer=add,
    set_dataset_tensor_desc=set_tensor,
    set_input_dynamic_dims=set_gear,
    execute=lambda model, given, wanted: held[model].execute(held[given], held[wanted]),
)
util = SimpleNamespace(
    bytes_to_ptr=lambda raw: ctypes.cast(ctypes.c_char_p(raw), ctypes.c_void_p).value,
    ptr_to_bytes=ctypes.string_at,
)
