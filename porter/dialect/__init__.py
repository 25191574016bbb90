"""The neutral dialect: composite functions in the domain `porter`, each with bodies in core operators of opset 17."""

from __future__ import annotations

from porter.dialect.attention import ATTENTION
from porter.dialect.cache import CACHE_UPDATE, CACHE_WRITE
from porter.dialect.collective import ALL_GATHER, ALL_REDUCE, COLLECTIVES
from porter.dialect.dequantize import DEQUANTIZE
from porter.dialect.experts import EXPERTS
from porter.dialect.function import Body, Function
from porter.dialect.linear import QUANTIZED_LINEAR
from porter.dialect.norm import RMS_NORM
from porter.dialect.rotary import ROTARY_EMBEDDING
from porter.dialect.route import ROUTE
from porter.dialect.swiglu import SWIGLU

FUNCTIONS: dict[str, Function] = {
    f.name: f
    for f in (
        ALL_GATHER,
        ALL_REDUCE,
        ATTENTION,
        CACHE_UPDATE,
        CACHE_WRITE,
        DEQUANTIZE,
        EXPERTS,
        QUANTIZED_LINEAR,
        RMS_NORM,
        ROTARY_EMBEDDING,
        ROUTE,
        SWIGLU,
    )
}

__all__ = [
    "ALL_GATHER",
    "ALL_REDUCE",
    "ATTENTION",
    "CACHE_UPDATE",
    "CACHE_WRITE",
    "COLLECTIVES",
    "DEQUANTIZE",
    "EXPERTS",
    "FUNCTIONS",
    "QUANTIZED_LINEAR",
    "RMS_NORM",
    "ROTARY_EMBEDDING",
    "ROUTE",
    "SWIGLU",
    "Body",
    "Function",
]
