"""The one place that knows how config.json spells RoPE, in transformers 5's form and the older one."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from porter.blocks.rope import DynamicRope, LinearRope, Llama3Rope, Rope, YarnRope
from porter.blocks.rope_kinds import LocalRope, LongRope
from porter.errors import FamilyError, known_names
from porter.families._config import LARGEST, DecoderConfig

MOST_FEATURES = 2**16
MOST_TABLE_BYTES = 2**32  # of cosines and sines in float32: ten times what the longest released models need


def rope_of(config: DecoderConfig, dim: int) -> Rope:
    """The rotation of `dim` features that a config asks for, in transformers 5's form or the older one.

    `rope_parameters` {rope_type, rope_theta, …} and `rope_scaling` {type, …} beside `rope_theta` mean the same.
    Raises FamilyError for a kind that is not known, a parameter that is missing, and one that makes no rotation.
    """
    given = _given(config)
    kind = given.get("rope_type", given.get("type", "default"))
    partial = given.get("partial_rotary_factor", config.partial_rotary_factor)
    if partial not in (None, 1, 1.0) and not config.turns_parts:
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


def rotated_part(config: DecoderConfig, head_dim: int, default: float | None = None) -> int:
    """How many features of a head are turned: as `partial_rotary_factor` says in a family that has it, or `default`."""
    own = default if config.partial_rotary_factor is None else config.partial_rotary_factor
    given = _given(config).get("partial_rotary_factor", own)
    factor = _number(given, "partial_rotary_factor")
    turned = head_dim if factor is None else int(head_dim * factor)
    if not 0 < turned <= head_dim:
        message = f"config.json: partial_rotary_factor is {reprlib.repr(given)}, with heads of {head_dim} features"
        raise FamilyError(message, "it must turn two features at least, and at most all")
    return turned


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


def _longrope(plain: dict[str, Any], given: dict[str, Any], config: DecoderConfig) -> Rope:
    trained = _trained_length(given, config)
    short, long = (_factors(given, name, plain["dim"] // 2) for name in ("short_factor", "long_factor"))
    return LongRope(
        **plain,
        short=short,
        long=long,
        original_max_positions=trained,
        factor=_number(given.get("factor"), "factor") or config.max_position_embeddings / trained,
        explicit_attention_factor=_number(given.get("attention_factor"), "attention_factor"),
    )


def _factors(given: dict[str, Any], name: str, count: int) -> tuple[float, ...]:
    """One number above zero for each frequency."""
    values = given.get(name)
    if not isinstance(values, list) or len(values) != count or not all(_number(v, name) for v in values):
        message = f"config.json: the RoPE parameters' {name} is {reprlib.repr(values)}"
        raise FamilyError(message, f"it must be a list of {count} numbers above zero, one for each frequency")
    return tuple(float(v) for v in values)


ROPE_KINDS = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def stretched_rope_of(config: DecoderConfig, dim: int) -> Rope:
    """The same, where "dynamic" with an `alpha` means a base stretched once and for all (Hunyuan)."""
    rope, alpha = rope_of(config, dim), _number(_given(config).get("alpha"), "alpha")
    if not isinstance(rope, DynamicRope) or not alpha:
        return rope
    stretched = Rope(dim, rope.theta * alpha ** (dim / (dim - 2)), rope.max_positions)
    _check_rope(stretched, "dynamic")
    return stretched


def local_rope_of(config: DecoderConfig, dim: int, local_theta: float) -> LocalRope:
    """The two rotations of a config whose `rope_parameters` tell layers within a window from those that see everything;
    `rope_scaling` and `rope_theta` are about the latter.
    """
    kinds = ("full_attention", "sliding_attention")
    nested = config.rope_parameters or {}
    if not set(nested) <= set(kinds) or not all(isinstance(value, dict | None) for value in nested.values()):
        message = f"config.json: rope_parameters is {reprlib.repr(nested)}"
        raise FamilyError(message, f"{config.model_type} has parameters for {' and '.join(kinds)}")
    whole_given, local_given = (dict(nested.get(kind) or {}) for kind in kinds)
    whole_given |= config.rope_scaling or {}
    whole = rope_of(dataclasses.replace(config, rope_scaling=whole_given, rope_parameters=None), dim)
    local = rope_of(
        dataclasses.replace(config, rope_scaling=local_given, rope_parameters=None, rope_theta=local_theta), dim
    )
    if type(local) is not Rope:
        message = "config.json: rope_parameters scales the rotation of sliding_attention"
        raise FamilyError(message, f"{config.model_type} is known with a plain one there")
    longest = max(whole.positions(), whole.max_positions)
    return LocalRope(dim, whole.theta, whole.max_positions, whole, dataclasses.replace(local, max_positions=longest))


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
