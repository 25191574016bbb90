"""The dtypes of a plan on a device: what weights, cache and activations take, and how fast they are multiplied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from porter.errors import FamilyError, TargetError
from porter.plan.demand import Store
from porter.target import Device

# Bytes of a number in storage; int4 with a float32 scale for each block of 128, as `porter convert --quantize` does.
BYTES = {
    "float32": Fraction(4),
    "bfloat16": Fraction(2),
    "float16": Fraction(2),
    "float8e4m3fn": Fraction(1),
    "int8": Fraction(1),
    "int4": Fraction(1, 2) + Fraction(4, 128),
}
WIDE = ("bfloat16", "float16", "float32")  # of activations and of what is never quantized, the first that is known
STORED = {"bfloat16": "bfloat16", "float16": "float16", "float32": "float32"}


@dataclass(frozen=True)
class Form:
    """What each kind of number is stored in on one device.

    `weights` is the dtype of what may be quantized, `wide` that of everything else and of activations, `cache` that of
    keys, values and latents. Matrices are multiplied in `multiplied`: weights of int4 are multiplied in the wide dtype.
    """

    weights: str
    wide: str
    cache: str

    @property
    def multiplied(self) -> str:
        return self.wide if self.weights == "int4" else self.weights

    @property
    def activation(self) -> int:
        """Bytes of a number of the hidden state."""
        return int(BYTES[self.wide])

    @property
    def dispatched(self) -> int:
        """Bytes of a number of the hidden state on its way to experts, which get it as they multiply it."""
        return min(self.activation, int(BYTES[self.multiplied]))

    def bytes_of(self, store: Store) -> Fraction:
        """Bytes of one stored weight."""
        return BYTES[{"asked": self.weights, "float": self.wide, "float32": "float32"}[store]]

    def rate_of(self, store: Store) -> str:
        """The dtype that a weight is multiplied in."""
        return {"asked": self.multiplied, "float": self.wide, "float32": "float32"}[store]


@dataclass(frozen=True)
class Rate:
    """Operations per second in a dtype; `said` is where it comes from, `bound` whether it only cannot be exceeded."""

    value: float
    said: str
    bound: bool


def stored_dtype(config: Mapping[str, Any]) -> str:
    """What a config.json says that its weights are stored in. Raises FamilyError for a form that is not known."""
    quantized = config.get("quantization_config")
    if isinstance(quantized, dict):
        return _quantized(quantized)
    stated = config.get("torch_dtype") or config.get("dtype") or "bfloat16"
    if stated not in STORED:
        known = f"known: {', '.join(STORED)}; or ask for one with --dtype"
        raise FamilyError(f"config.json: torch_dtype is {stated!r}, which is no dtype of weights", known)
    return STORED[stated]


def _quantized(quantization: Mapping[str, Any]) -> str:
    method, bits = quantization.get("quant_method"), quantization.get("bits", quantization.get("w_bit"))
    if method == "fp8":
        return "float8e4m3fn"
    for group in (quantization.get("config_groups") or {}).values():
        weights = group.get("weights") or {}
        if weights.get("type") == "float":
            return "float8e4m3fn"
        bits = weights.get("num_bits")
    if bits not in (4, 8):
        hint = "ask for the dtype that the weights shall have with --dtype"
        raise FamilyError(f"config.json: quantization_config of method {method!r} does not say its bits", hint)
    return f"int{bits}"


def form_for(device: Device, stored: str, dtype: str, cache: str) -> Form:
    """The form of a plan. "auto" is what the checkpoint is stored in where the device takes it; else int8 in place of
    another form of one byte; else the widest that it takes. Raises TargetError for a dtype that the device lacks.
    """
    known = {*device.dtypes, *device.rates} or set(BYTES)
    wide = next((name for name in WIDE if name in known), "bfloat16")
    if dtype != "auto":
        if dtype not in known and dtype != "int4":  # of codes that are decoded, the device need not know
            hint = f"known: {', '.join(sorted(known & BYTES.keys()))}"
            raise TargetError(f"{device.name} is not known to compute in {dtype}", hint)
        weights = dtype
    elif stored == "int4" or stored in known:
        weights = stored
    else:
        weights = "int8" if BYTES[stored] == 1 and "int8" in known else wide
    wide = weights if weights in WIDE else wide
    return Form(weights, wide, wide if cache == "auto" else cache)


def rate_of(device: Device, dtype: str) -> Rate | None:
    """How fast a device multiplies in a dtype.

    A rate that nobody states is at most the fastest that is: the narrower, the faster. None where none is known. For
    float32 the tf32 rate counts, which is how matrices of it are multiplied where speed is asked for.
    """
    rates = device.rates
    stated = max(
        (rates[name] for name in (dtype, *(("tf32",) if dtype == "float32" else ())) if name in rates), default=0.0
    )
    source = device.sources.get("rates", "not given")
    if stated:
        return Rate(stated, source, False)
    if not rates:
        return None
    fastest = max(rates, key=lambda name: rates[name])
    return Rate(rates[fastest], f"unknown; at most that of {fastest} ({source})", True)
