"""The families of models: one file each, found by looking, chosen by `model_type`."""

from __future__ import annotations

import importlib
import pkgutil
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from porter.blocks.decoder import Decoder
from porter.errors import FamilyError, known_names
from porter.families._common import common_drops, keys_and_values, own_names
from porter.families._config import DecoderConfig, read_config
from porter.layout import ONE_CARD, Layout
from porter.weights import Drop, Rule


@dataclass(frozen=True)
class Family:
    """What a family file declares: MODEL_TYPES, Config and network; the rest where it differs from the common case.

    `forms` are the forms of attention that it can be built in (empty where there is one only), the first the default.
    `original_cache` turns transformers' cache of a layer (keys, values) into the port's cache entries, in order.
    """

    name: str
    model_types: tuple[str, ...]
    config: type[DecoderConfig]
    network: Callable[..., Decoder]
    weights: Callable[[Any], tuple[Rule, ...]]
    drops: Callable[[Any], tuple[Drop, ...]]
    forms: tuple[str, ...]
    original_cache: Callable[[Any, np.ndarray, np.ndarray], tuple[np.ndarray, ...]]

    def read(self, raw: Mapping[str, Any]) -> DecoderConfig:
        """The family's config out of a parsed config.json."""
        return read_config(self.config, raw)

    def build(self, config: DecoderConfig, attention: str, layout: Layout = ONE_CARD) -> Decoder:
        """The network, or a rank's share of it, with `attention` one of `forms` or "auto". Raises Indivisible."""
        if attention == "auto":
            return self.network(config, layout)
        if attention not in self.forms:
            known = f"known for {self.name}: {', '.join(('auto', *self.forms))}"
            raise FamilyError(f"{config.model_type} has no {attention} form of attention", known)
        return self.network(config, layout, form=attention)


@cache
def families() -> Mapping[str, Family]:
    """Every family by name: the modules of this package that declare MODEL_TYPES."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(module, "MODEL_TYPES"):
            found[info.name] = Family(
                name=info.name,
                model_types=module.MODEL_TYPES,
                config=module.Config,
                network=module.network,
                weights=getattr(module, "weights", own_names),
                drops=getattr(module, "drops", common_drops),
                forms=getattr(module, "FORMS", ()),
                original_cache=getattr(module, "original_cache", keys_and_values),
            )
    return found


def family_of(raw: Mapping[str, Any]) -> Family:
    """The family of a config.json. Raises FamilyError, listing what is known, for an unknown or missing model_type."""
    by_type = {t: f for f in families().values() for t in f.model_types}
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise FamilyError("config.json has no model_type", known_names("", by_type))
    if model_type not in by_type:
        raise FamilyError(f"model_type {reprlib.repr(model_type)} is not known", known_names(model_type, by_type))
    return by_type[model_type]
