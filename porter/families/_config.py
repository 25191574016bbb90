"""Reading config.json into a family's own dataclass: types, ranges, and the one place that knows RoPE's spellings."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from porter.blocks.rope import DynamicRope, LinearRope, Llama3Rope, Rope, YarnRope
from porter.errors import FamilyError, known_names

LARGEST = 2**31 - 1
MOST_FEATURES = 2**16
MOST_TABLE_BYTES = 2**32  # of RoPE's cosines and sines in float32: ten times what the longest released models need
MOST = dict.fromkeys(  # of what a graph or a binding has one part each for
    (
        "num_hidden_layers",
        "num_nextn_predict_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "num_local_experts",
        "num_experts",
        "n_routed_experts",
        "n_shared_experts",
    ),
    4096,
)
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
    per_layer_config: dict[str, Any] | None = None
    is_causal: bool = True

    default_theta: typing.ClassVar[float] = 10000.0
    aliases: typing.ClassVar[Mapping[str, str]] = {}  # transformers' other names for fields: alias → field

    def check(self) -> None:
        """Refuses what does not fit together; a family extends it."""
        self.only("hidden_act", "silu", "swish")  # two names of one function
        self.only("is_causal", True)
        self.divides("num_key_value_heads", "num_attention_heads")
        if self.per_layer_config:
            raise FamilyError(
                "config.json: per_layer_config gives layers sizes of their own",
                f"{self.model_type} is read with equal layers only",
            )

    def divides(self, part: str, whole: str) -> None:
        """Refuses unless the field `part` divides the field `whole`."""
        small, large = getattr(self, part), getattr(self, whole)
        if small is not None and (small == 0 or large % small):
            raise FamilyError(
                f"config.json: {part} is {small}, which does not divide {whole} = {large}",
                f"{whole} must be a multiple of {part}",
            )

    def at_most(self, name: str, limit: int, what: str) -> None:
        """Refuses a count that is not given, or above what there is."""
        value = getattr(self, name)
        if not value:
            raise FamilyError(f"config.json: {name} is not given", f"it must be a number up to {what} = {limit}")
        if value > limit:
            raise FamilyError(
                f"config.json: {name} is {value}, more than {what} = {limit}",
                "compare the config with the model's release",
            )

    def only(self, name: str, *values: object) -> None:
        """Refuses a value of a field that the family does not implement."""
        value = getattr(self, name)
        if value not in values:
            raise FamilyError(
                f"config.json: {name} is {reprlib.repr(value)}, which {self.model_type} is not known with",
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
    given: dict[str, Any] = {}
    spellings = [(f.name, f.name) for f in dataclasses.fields(cls)] + list(cls.aliases.items())
    for name, field in spellings:
        if name not in raw:
            continue
        value = _checked(name, raw[name], hints[field])
        if given.setdefault(field, value) != value:
            message = f"config.json: {name} is {value}, but {field}, which means the same, is {given[field]}"
            raise FamilyError(message, "compare the config with the model's release")
    config = cls(**given)
    config.check()
    return config


def _checked(name: str, value: Any, hint: Any) -> Any:
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = {typing.get_origin(a) or a: typing.get_args(a) for a in allowed}
    if float in kinds and type(value) is int:
        value = float(value) if abs(value) <= LARGEST else math.inf
    if type(value) not in kinds or (type(value) is list and any(type(v) is not kinds[list][0] for v in value)):
        names = " or ".join(sorted("null" if k is types.NoneType else _kind_name(k, a) for k, a in kinds.items()))
        raise FamilyError(
            f"config.json: {name} is {reprlib.repr(value)}, not {names}", "compare the config with the model's release"
        )
    if type(value) is int:
        least, most = int(name not in ZERO_IS_MEANT), MOST.get(name, LARGEST)
        if not least <= value <= most:
            raise FamilyError(
                f"config.json: {name} is {reprlib.repr(value)}", f"it must lie between {least} and {most}"
            )
    if type(value) is float and not (math.isfinite(value) and value >= 0):
        raise FamilyError(f"config.json: {name} is {value}", "it must be a finite number, zero or more")
    return value


def _kind_name(kind: type, arguments: tuple[Any, ...]) -> str:
    return f"list of {arguments[0].__name__}" if kind is list else kind.__name__


ZERO_IS_MEANT = {"first_k_dense_replace", "num_nextn_predict_layers", "max_window_layers", "n_group", "topk_group"}


def rope_of(config: DecoderConfig, dim: int) -> Rope:
    """The rotation of `dim` features that a config asks for, in transformers 5's form or the older one.

    `rope_parameters` {rope_type, rope_theta, …} and `rope_scaling` {type, …} beside `rope_theta` mean the same.
    Raises FamilyError for a kind that is not known, a parameter that is missing, and one that makes no rotation.
    """
    given = _given(config)
    kind = given.get("rope_type", given.get("type", "default"))
    partial = given.get("partial_rotary_factor", config.partial_rotary_factor)
    if partial not in (None, 1, 1.0):
        message = f"config.json: partial_rotary_factor is {reprlib.repr(partial)}"
        raise FamilyError(message, f"{config.model_type} rotates whole heads only")
    if dim % 2 or dim > MOST_FEATURES:
        message = f"config.json: heads of {dim} rotated features are not known"
        raise FamilyError(message, f"their number must be even, and {MOST_FEATURES} at most")
    if not isinstance(kind, str) or kind not in ROPE_KINDS:
        message = f"config.json: rope_type {reprlib.repr(kind)} is not known"
        raise FamilyError(message, known_names(kind if isinstance(kind, str) else "", ROPE_KINDS))
    theta = _number(given.get("rope_theta", config.rope_theta), "rope_theta")
    if theta == 0:
        raise FamilyError("config.json: rope_theta is 0", "it must be a finite number above zero")
    plain = {
        "dim": dim,
        "theta": config.default_theta if theta is None else theta,
        "max_positions": config.max_position_embeddings,
    }
    rope = ROPE_KINDS[kind](plain, given, config)
    _check_rope(rope, kind)
    return rope


def _given(config: DecoderConfig) -> dict[str, Any]:
    """The RoPE parameters; transformers takes rope_scaling where both are there."""
    name = "rope_scaling" if config.rope_scaling else "rope_parameters"
    given = dict(config.rope_scaling or config.rope_parameters or {})
    nested = [key for key, value in given.items() if isinstance(value, dict)]
    if nested:
        message = f"config.json: {name} has parameters for {reprlib.repr(nested[0])} alone"
        raise FamilyError(message, f"{config.model_type} is read with one rotation for all layers")
    return given


def _check_rope(rope: Rope, kind: str) -> None:
    """Refuses a rotation that is not made of finite numbers, or whose tables would fill the memory."""
    try:
        with np.errstate(all="ignore"):
            numbers = [*rope.inverse_frequencies(), rope.attention_factor()]
            finite = bool(np.isfinite(numbers).all())
    except (ArithmeticError, ValueError):
        finite = False
    if not finite:
        raise FamilyError(
            f"config.json: the parameters of rope_type '{kind}' give no finite frequencies",
            "compare the config with the model's release",
        )
    most, positions = MOST_TABLE_BYTES // (4 * rope.dim), rope.positions()
    if not isinstance(rope, DynamicRope) and positions > most:
        message = f"config.json: max_position_embeddings is {rope.max_positions}, in all {positions} positions of RoPE"
        raise FamilyError(
            message, f"cosines and sines are held for {most} at most: set it to the longest text you need"
        )


def _default(plain: dict[str, Any], given: dict[str, Any], config: DecoderConfig) -> Rope:
    return Rope(**plain)


def _linear(plain: dict[str, Any], given: dict[str, Any], config: DecoderConfig) -> Rope:
    return LinearRope(**plain, factor=_required(given, "factor"))


def _dynamic(plain: dict[str, Any], given: dict[str, Any], config: DecoderConfig) -> Rope:
    if plain["dim"] == 2:
        raise FamilyError("config.json: rope_type 'dynamic' with 2 rotated features", "it needs 4 or more")
    return DynamicRope(**plain, factor=_required(given, "factor"))


def _llama3(plain: dict[str, Any], given: dict[str, Any], config: DecoderConfig) -> Rope:
    low, high = _required(given, "low_freq_factor"), _required(given, "high_freq_factor")
    if low >= high:
        raise FamilyError(f"config.json: low_freq_factor is {low}", f"it must lie below high_freq_factor = {high}")
    trained = _trained_length(given, config)
    return Llama3Rope(
        **plain,
        factor=_required(given, "factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=trained,
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


ROPE_KINDS = {"default": _default, "linear": _linear, "dynamic": _dynamic, "llama3": _llama3, "yarn": _yarn}


def softmax_mscale(config: DecoderConfig) -> float:
    """What transformers multiplies DeepSeek's softmax scale by: mscale² where `mscale_all_dim` is given, else 1.

    The published models have mscale == mscale_all_dim, so that cosines are scaled by 1 and all of YaRN's temperature
    is here: forgetting it is a wrong model with the right shapes.
    """
    given = _given(config)
    all_dim = _number(given.get("mscale_all_dim"), "mscale_all_dim")
    if given.get("rope_type", given.get("type", "default")) == "default" or not all_dim:
        return 1.0
    factor = _required(given, "factor")
    return (0.1 * all_dim * math.log(factor) + 1.0) ** 2 if factor > 1 else 1.0


def _trained_length(given: dict[str, Any], config: DecoderConfig) -> int:
    own = config.original_max_position_embeddings
    length = own or given.get("original_max_position_embeddings", config.max_position_embeddings)
    if type(length) is not int or not 0 < length <= LARGEST:
        raise FamilyError(
            f"config.json: original_max_position_embeddings is {reprlib.repr(length)}", "it must be a positive integer"
        )
    return length


def _required(given: Mapping[str, Any], name: str) -> float:
    value = _number(given.get(name), name)
    if not value:
        raise FamilyError(
            f"config.json: the RoPE parameters lack '{name}'", "compare the config with the model's release"
        )
    return value


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= 1e30:  # NaN is neither
        raise FamilyError(f"config.json: {name} is {reprlib.repr(value)}", "it must be a finite number, zero or more")
    return float(value)
