"""Reading config.json into a family's own dataclass: types, ranges, and the one place that knows RoPE's spellings."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from porter.blocks.rope import DynamicRope, LinearRope, Llama3Rope, Rope, YarnRope
from porter.errors import FamilyError

LARGEST = 2**31 - 1
MOST_LAYERS = 4096
C = TypeVar("C", bound="DecoderConfig")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """What every decoder's config.json has; a family adds its own fields, with transformers' names and defaults."""

    model_type: str = ""
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: float | None = None
    original_max_position_embeddings: int | None = None

    default_theta: typing.ClassVar[float] = 10000.0

    def check(self) -> None:
        """Refuses what does not fit together; a family extends it."""
        if self.num_hidden_layers > MOST_LAYERS:
            raise FamilyError(
                f"config.json: num_hidden_layers is {self.num_hidden_layers}", f"at most {MOST_LAYERS} layers are read"
            )
        if self.hidden_act != "silu":
            raise FamilyError(
                f"config.json: hidden_act is '{self.hidden_act}', but {self.model_type} is known with 'silu' only",
                "check the config against the model's release",
            )
        self.divides("num_key_value_heads", "num_attention_heads")

    def divides(self, part: str, whole: str) -> None:
        """Refuses unless the field `part` divides the field `whole`."""
        small, large = getattr(self, part), getattr(self, whole)
        if small is not None and large % small:
            raise FamilyError(
                f"config.json: {part} is {small}, which does not divide {whole} = {large}",
                f"{whole} must be a multiple of {part}",
            )

    def at_most(self, name: str, limit: int, what: str) -> None:
        """Refuses a count above what there is."""
        value = getattr(self, name)
        if value is None or value > limit:
            raise FamilyError(f"config.json: {name} is {value}, more than {what} = {limit}", "compare the config with the model's release")

    def only(self, name: str, *values: object) -> None:
        """Refuses a value of a field that the family does not implement."""
        value = getattr(self, name)
        if value not in values:
            raise FamilyError(
                f"config.json: {name} is {value!r}, which {self.model_type} is not known with",
                f"known: {', '.join(repr(v) for v in values)}",
            )

    @property
    def key_value_heads(self) -> int:
        """num_key_value_heads, by default one per attention head."""
        return self.num_key_value_heads or self.num_attention_heads


def read_config(cls: type[C], raw: Mapping[str, Any]) -> C:
    """The family's config out of a parsed config.json; fields that it does not name are left alone.

    Raises FamilyError for a value of the wrong type or out of range, and for sizes that do not fit together.
    """
    hints = typing.get_type_hints(cls)
    given = {}
    for field in dataclasses.fields(cls):
        if field.name in raw:
            given[field.name] = _checked(field.name, raw[field.name], hints[field.name])
    config = cls(**given)
    config.check()
    return config


def _checked(name: str, value: Any, hint: Any) -> Any:
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = {typing.get_origin(a) or a for a in allowed}
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= LARGEST else math.inf
    if type(value) not in kinds:
        names = " or ".join(sorted("null" if k is types.NoneType else k.__name__ for k in kinds))
        raise FamilyError(f"config.json: {name} is {value!r}, not {names}", "compare the config with the model's release")
    if type(value) is int and not 0 <= value <= LARGEST:
        raise FamilyError(f"config.json: {name} is {value}", f"it must lie between 0 and {LARGEST}")
    if type(value) is int and value == 0 and name not in ZERO_IS_MEANT:
        raise FamilyError(f"config.json: {name} is 0", "it must be at least 1")
    if type(value) is float and not (math.isfinite(value) and value >= 0):
        raise FamilyError(f"config.json: {name} is {value}", "it must be a finite number, zero or more")
    return value


ZERO_IS_MEANT = {"first_k_dense_replace", "num_nextn_predict_layers", "max_window_layers", "n_group", "topk_group"}


def rope_of(config: DecoderConfig, dim: int) -> Rope:
    """The rotation of `dim` features that a config asks for, in transformers 5's form or the older one.

    `rope_parameters` {rope_type, rope_theta, …} and `rope_scaling` {type, …} beside `rope_theta` mean the same.
    Raises FamilyError for a kind that is not known or a parameter that is missing.
    """
    given = dict(config.rope_scaling or config.rope_parameters or {})
    kind = given.get("rope_type", given.get("type", "default"))
    theta = _number(given.get("rope_theta", config.rope_theta), "rope_theta") or config.default_theta
    partial = given.get("partial_rotary_factor", config.partial_rotary_factor)
    if partial not in (None, 1, 1.0):
        raise FamilyError(f"config.json: partial_rotary_factor is {partial}", f"{config.model_type} rotates whole heads only")
    if dim % 2:
        raise FamilyError(f"config.json: {dim} features cannot be rotated in pairs", "the rotated head size must be even")
    plain = {"dim": dim, "theta": theta, "max_positions": config.max_position_embeddings}
    if kind == "default":
        return Rope(**plain)
    if kind not in ROPE_KINDS:
        raise FamilyError(f"config.json: rope_type '{kind}' is not known", f"known: {', '.join(['default', *ROPE_KINDS])}")
    build = ROPE_KINDS[kind]
    return build(plain, given, config)


def _linear(plain: dict[str, Any], given: dict[str, Any], config: DecoderConfig) -> Rope:
    return LinearRope(**plain, factor=_required(given, "factor"))


def _dynamic(plain: dict[str, Any], given: dict[str, Any], config: DecoderConfig) -> Rope:
    return DynamicRope(**plain, factor=_required(given, "factor"))


def _llama3(plain: dict[str, Any], given: dict[str, Any], config: DecoderConfig) -> Rope:
    return Llama3Rope(
        **plain,
        factor=_required(given, "factor"),
        low_freq_factor=_required(given, "low_freq_factor"),
        high_freq_factor=_required(given, "high_freq_factor"),
        original_max_positions=_trained_length(given, config),
    )


def _yarn(plain: dict[str, Any], given: dict[str, Any], config: DecoderConfig) -> Rope:
    trained = _trained_length(given, config)
    return YarnRope(
        **plain,
        factor=_number(given.get("factor"), "factor") or config.max_position_embeddings / trained,
        original_max_positions=trained,
        beta_fast=_number(given.get("beta_fast"), "beta_fast") or 32.0,
        beta_slow=_number(given.get("beta_slow"), "beta_slow") or 1.0,
        mscale=_number(given.get("mscale"), "mscale"),
        mscale_all_dim=_number(given.get("mscale_all_dim"), "mscale_all_dim"),
        explicit_attention_factor=_number(given.get("attention_factor"), "attention_factor"),
        truncate=bool(given.get("truncate", True)),
    )


ROPE_KINDS = {"linear": _linear, "dynamic": _dynamic, "llama3": _llama3, "yarn": _yarn}


def softmax_mscale(config: DecoderConfig) -> float:
    """What transformers multiplies DeepSeek's softmax scale by: mscale² where `mscale_all_dim` is given, else 1.

    The published models have mscale == mscale_all_dim, so that cosines are scaled by 1 and all of YaRN's temperature
    is here: forgetting it is a wrong model with the right shapes.
    """
    given = config.rope_scaling or config.rope_parameters or {}
    all_dim = _number(given.get("mscale_all_dim"), "mscale_all_dim")
    if given.get("rope_type", given.get("type", "default")) == "default" or not all_dim:
        return 1.0
    factor = _required(given, "factor")
    return (0.1 * all_dim * math.log(factor) + 1.0) ** 2 if factor > 1 else 1.0


def _trained_length(given: dict[str, Any], config: DecoderConfig) -> int:
    own = config.original_max_position_embeddings
    length = own or given.get("original_max_position_embeddings", config.max_position_embeddings)
    if type(length) is not int or not 0 < length <= LARGEST:
        raise FamilyError(f"config.json: original_max_position_embeddings is {length!r}", "it must be a positive integer")
    return length


def _required(given: Mapping[str, Any], name: str) -> float:
    value = _number(given.get(name), name)
    if not value:
        raise FamilyError(f"config.json: the RoPE parameters lack '{name}'", "compare the config with the model's release")
    return value


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and 0 <= value <= 1e30):
        raise FamilyError(f"config.json: {name} is {value!r}", "it must be a finite number, zero or more")
    return float(value)
