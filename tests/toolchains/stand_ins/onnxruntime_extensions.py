"""Stands in for onnxruntime-extensions, and so for torch and transformers, which it imports: tpu-mlir declares three
operators of its own with it, and uses it in no graph without them.
"""


def onnx_op(**_):
    return lambda function: function


class PyOp:
    dt_float = 1
    dt_int64 = 7


class PyOrtFunction:
    pass


def get_library_path():
    raise NotImplementedError("no onnxruntime-extensions here")
