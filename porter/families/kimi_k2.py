"""Kimi-K2 (arXiv:2507.20534): DeepSeek-V3 under another name, which transformers has no class for."""

from __future__ import annotations

from porter.families import deepseek_v3

MODEL_TYPES = ("kimi_k2",)
ORIGINAL = deepseek_v3.MODEL_TYPES[0]  # what its own modeling code, a copy of that class, is compared as
FORMS = deepseek_v3.FORMS
Config = deepseek_v3.Config
network, weights, drops = deepseek_v3.network, deepseek_v3.weights, deepseek_v3.drops
original_cache = deepseek_v3.original_cache
