"""Stands in for torch, gigabytes of which two toolchains import and do not use where they read ONNX.

rknn-toolkit2 wants a version, and a base class and a decorator for a quantizer that nobody calls; tpu-mlir nothing.
Whatever else is asked for is an AttributeError.
"""

import sys
import types

__version__ = "2.4.0"


class no_grad:
    def __call__(self, function):
        return function


class Module:
    pass


nn = sys.modules["torch.nn"] = types.ModuleType("torch.nn")
nn.Module = Module
