"""Reading config.json into a family's own dataclass: types, ranges, sizes that fit together."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from porter.errors import FamilyError

LARGEST = 2**31 - 1
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
        "moe_num_experts",
        "moe_num_shared_experts",
    ),
    4096,
)
BESIDES = {  # fields of any config.json that no computation hangs on
    *("model_type", "architectures", "auto_map", "transformers_version", "torch_dtype", "dtype", "_name_or_path"),
    *("quantization_config", "use_cache", "cache_implementation", "pretraining_tp", "initializer_range"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id"),
    *("attention_dropout", "hidden_dropout", "router_aux_loss_coef", "output_router_logits"),
}
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
    activations: typing.ClassVar[tuple[str, ...]] = ("silu", "swish")  # two names of one function
    turns_parts: typing.ClassVar[bool] = False  # whether `partial_rotary_factor` may leave features of a head unturned
    example: typing.ClassVar[Mapping[str, Any]] = {}  # what transformers' defaults leave out and every model says
    zeros: typing.ClassVar[frozenset[str]] = frozenset()  # fields in which a 0 stands for none
    aliases: typing.ClassVar[Mapping[str, str]] = {}  # transformers' other names for fields: alias → field

    def check(self) -> None:
        """Refuses what does not fit together; a family extends it."""
        self.only("hidden_act", *self.activations)
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

    def above_zero(self, *names: str) -> None:
        """Refuses a zero where something is divided by it; None is as good as absent."""
        for name in names:
            if getattr(self, name) == 0:
                raise FamilyError(f"config.json: {name} is {getattr(self, name)}", "it must lie above zero")

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
        value = _checked(name, raw[name], hints[field], least=_least(cls, name))
        if given.setdefault(field, value) != value:
            message = f"config.json: {name} is {value}, but {field}, which means the same, is {given[field]}"
            raise FamilyError(message, "compare the config with the model's release")
    config = cls(**given)
    config.check()
    return config


def _least(cls: type[DecoderConfig], name: str) -> int:
    return -1 if name in LESS_IS_MEANT else int(name not in ZERO_IS_MEANT | cls.zeros)


def _checked(name: str, value: Any, hint: Any, *, least: int) -> Any:
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
        most = MOST.get(name, LARGEST)
        if not least <= value <= most:
            raise FamilyError(
                f"config.json: {name} is {reprlib.repr(value)}", f"it must lie between {least} and {most}"
            )
    if type(value) is float and not 0 <= value <= 1e30:  # far within float32; NaN is neither
        raise FamilyError(f"config.json: {name} is {value}", "it must be a finite number, zero or more")
    return value


def _kind_name(kind: type, arguments: tuple[Any, ...]) -> str:
    return f"list of {arguments[0].__name__}" if kind is list else kind.__name__


ZERO_IS_MEANT = {
    "first_k_dense_replace",
    "num_nextn_predict_layers",
    "max_window_layers",
    "n_group",
    "topk_group",
}
LESS_IS_MEANT = {"moe_layer_end_index"}  # -1, for the last
