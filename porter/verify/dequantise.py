"""Multiplies out quantised weights for the original, independently of porter's own reader.

The ways of transformers are not taken: that for float8 finds the size of a block by dividing the sides of a weight by
those of its scales, which is wrong wherever a side is no multiple of a block; the others want packages and a GPU.
Sources: the packers of AutoGPTQ and GPTQModel, AutoAWQ and compressed-tensors; DeepSeek-V3's inference code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from porter.errors import ParityError
from porter.verify.stored import Tensors

NOT_WEIGHTS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point", "k_scale", "v_scale")


def dequantise(tensors: Tensors, quantisation: Mapping[str, Any]) -> Tensors:
    """Put a float32 `weight` in the place of each weight's parts; what is not quantised stays as it is.

    Raises ParityError for a method that is not known, and for parts that do not go together.
    """
    method = quantisation.get("quant_method")
    if method not in METHODS:
        raise ParityError(
            f"weights quantised by {method!r} cannot be read for the original", f"known: {', '.join(METHODS)}"
        )
    ends, decode = METHODS[method]
    plain, modules = {}, dict[str, Tensors]()
    for name, tensor in tensors.items():
        module, _, end = name.rpartition(".")
        if end in ends:
            modules.setdefault(module, {})[end] = tensor
        elif method != "compressed-tensors" or end not in NOT_WEIGHTS:
            plain[name] = tensor
    for module, parts in modules.items():
        if set(parts) == {"weight"}:
            plain[f"{module}.weight"] = parts["weight"]
            continue
        try:
            plain[f"{module}.weight"] = decode(parts, quantisation)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as cause:
            found = ", ".join(f"{end} {tensor.dtype} {tuple(tensor.shape)}" for end, tensor in parts.items())
            raise ParityError(
                f"{module} cannot be multiplied out: {cause!r}; it has {found}", f"known: what {method} itself writes"
            ) from cause
    return plain


def _fp8(parts: Tensors, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """One scale for each block; blocks at the edges are smaller."""
    height, width = quantisation["weight_block_size"]
    return _by_blocks(parts["weight"], parts["weight_scale_inv"], height, width)


def _by_blocks(weight: torch.Tensor, scale: torch.Tensor, height: int, width: int) -> torch.Tensor:
    rows, columns = weight.shape
    needed = (-(-rows // height), -(-columns // width))
    if weight.dtype != torch.float8_e4m3fn or tuple(scale.shape) != needed:
        raise ValueError(f"float8_e4m3fn in blocks of {height} x {width} has scales {needed}")
    spread = scale.float().repeat_interleave(height, 0)[:rows].repeat_interleave(width, 1)[:, :columns]
    return weight.float() * spread


def _compressed(parts: Tensors, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """Bits and groups follow from the shapes; what is packed has half its range added to it."""
    scale, zero = parts["weight_scale"].float(), parts.get("weight_zero_point")
    if "weight_packed" in parts:
        rows, columns = parts["weight_shape"].tolist()
        bits = _packed_bits(parts["weight_packed"].shape[1], columns)
        codes = _unpack(parts["weight_packed"], bits, 1)[:rows, :columns] - 2 ** (bits - 1)
        if zero is not None:
            zero = _unpack(zero, bits, 0)[:rows] - 2 ** (bits - 1)
    else:
        codes = parts["weight"]
        rows, columns = codes.shape
        if structures := {tuple(g["weights"].get("block_structure") or ()) for g in _groups(quantisation)} - {()}:
            (height, width), *others = structures
            if others or not codes.is_floating_point():
                raise ValueError(f"blocks of {sorted(structures)} for {codes.dtype}")
            return _by_blocks(codes, scale, height, width)
    scale = scale.reshape(-1, scale.shape[1] if scale.dim() == 2 else 1)
    order = parts.get("weight_g_idx")
    if order is None or (order < 0).any():
        order = torch.arange(columns) // _even(columns, scale.shape[1])
    offset = codes.float() if zero is None else codes.float() - zero.reshape(scale.shape).float()[:, order.long()]
    return offset * scale[:, order.long()]


def _groups(quantisation: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return quantisation["config_groups"].values()


def _even(columns: int, groups: int) -> int:
    """The size of a group."""
    if columns % groups:
        raise ValueError(f"{columns} columns are not {groups} equal groups")
    return columns // groups


def _packed_bits(words: int, columns: int) -> int:
    fitting = [bits for bits in (4, 8) if -(-columns * bits // 32) == words]
    if len(fitting) != 1:
        raise ValueError(f"{columns} numbers of 4 or 8 bits do not fill {words} words")
    return fitting[0]


def _gptq(parts: Tensors, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """Packed along the inputs, zero points along the outputs; in the older form these are one less than they mean."""
    bits, scales = quantisation["bits"], parts["scales"].float()
    older = quantisation.get("checkpoint_format", quantisation.get("format", "gptq")) == "gptq"
    codes = _unpack(parts["qweight"], bits, 0)
    zeros = _unpack(parts["qzeros"], bits, 1)[:, : scales.shape[1]] + int(older)
    order = parts.get("g_idx")
    if order is None:
        size = quantisation["group_size"]
        order = torch.arange(codes.shape[0]) // (size if size > 0 else codes.shape[0])
    return ((codes - zeros[order.long()]).float() * scales[order.long()]).T.contiguous()


def _awq(parts: Tensors, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """Packed along the outputs, in each word first the even ones and then the odd ones."""
    scales = parts["scales"].float()
    codes, zeros = (_unpack(parts[end], 4, 1) for end in ("qweight", "qzeros"))
    mixed = torch.arange(scales.shape[1]).reshape(-1, 4, 2).transpose(1, 2).reshape(-1)  # 0 2 4 6 1 3 5 7, 8 10 …
    place = torch.argsort(mixed)
    group = torch.arange(codes.shape[0]) // _even(codes.shape[0], scales.shape[0])
    return ((codes - zeros[group])[:, place].float() * scales[group]).T.contiguous()


def _unpack(words: torch.Tensor, bits: int, along: int) -> torch.Tensor:
    """The unsigned numbers in words of 32 bits, lowest bits first, as int32; `along` grows by 32 / bits."""
    if words.dtype != torch.int32 or bits not in (4, 8):
        raise ValueError(f"{words.dtype} does not hold numbers of {bits} bits")
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    numbers = (words.unsqueeze(along + 1) >> shifts.reshape((-1, 1) if along == 0 else (-1,))) & (2**bits - 1)
    return numbers.flatten(along, along + 1)


PACKED = ("weight_packed", "weight_shape", "weight_scale", "weight_zero_point", "weight_g_idx")
METHODS: dict[str, tuple[tuple[str, ...], Callable[[Tensors, Mapping[str, Any]], torch.Tensor]]] = {
    "fp8": (("weight", "weight_scale_inv"), _fp8),
    "compressed-tensors": (("weight", *PACKED), _compressed),
    "gptq": (("qweight", "qzeros", "scales", "g_idx"), _gptq),
    "awq": (("qweight", "qzeros", "scales"), _awq),
}
