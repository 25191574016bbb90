"""Quantized checkpoints: which stored tensors are which weight of the network, read as codes and scales, decoded once.

One file per form, named like its `quant_method`. Each says of every quantized weight what it is stored as and how rows
of it are read; multiplying out is the same for all of them.
"""

from __future__ import annotations

import reprlib

from porter.checkpoint import Checkpoint
from porter.errors import FamilyError, known_names
from porter.formats import awq, compressed_tensors, fp8, gptq
from porter.formats.decoding import decode
from porter.formats.packed import Codes, Packed, Quantized

__all__ = ["Codes", "Packed", "Quantized", "decode", "format_of"]

FORMATS = {"fp8": fp8.read, "compressed-tensors": compressed_tensors.read, "gptq": gptq.read, "awq": awq.read}
PACKED = (".qweight", ".weight_packed")  # what no float checkpoint has


def format_of(checkpoint: Checkpoint) -> Quantized:
    """The quantized weights of a checkpoint, by the quantization_config of its config.json; none where there is none.

    Raises FamilyError for a method or a form that is not known, and for tensors that do not go together.
    """
    quantization = checkpoint.config.get("quantization_config")
    if quantization is None:
        _refuse_unsaid(checkpoint)
        return Quantized("")
    if not isinstance(quantization, dict):
        raise FamilyError("config.json: quantization_config is not an object", "compare it with the model's release")
    method = quantization.get("quant_method")
    if not isinstance(method, str) or method not in FORMATS:
        what = f"config.json: quantization_config of method {reprlib.repr(method)} is not read"
        raise FamilyError(what, known_names(str(method), FORMATS))
    return FORMATS[method](checkpoint, quantization)


def _refuse_unsaid(checkpoint: Checkpoint) -> None:
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype.startswith("F8_") or name.endswith(PACKED):
            raise FamilyError(
                f"tensor '{name}' is quantized, but config.json has no quantization_config",
                "restore config.json; of old GPTQ checkpoints, quantize_config.json is what belongs there",
            )
