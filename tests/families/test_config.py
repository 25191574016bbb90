"""config.json: what is nonsense is refused by name, and nothing that changes the computation is overlooked."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import random
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import tiny
import transformers

from porter.errors import FamilyError
from porter.families import Family, families, family_of
from porter.families._config import LESS_IS_MEANT, ZERO_IS_MEANT, DecoderConfig

FAMILIES = [pytest.param(f, id=f.name) for f in families().values()]
NOT_A_NUMBER = float("nan")
WRONG: dict[type, list[Any]] = {
    int: [-1, 2**63, -(2**63), 1.5, 1e9, NOT_A_NUMBER, "64", True, [64], {}],
    float: [-1.0, NOT_A_NUMBER, float("inf"), 10**400, "1e-6", True, [1e-6]],
    bool: [0, 1, "true", 1.0, []],
    str: [0, True, ["silu"], {}],
    list: ["full_attention", 3, [["full_attention"]], [None], {}],
    dict: ["yarn", 1, ["yarn"], True],
}


def read(family: Family, **overrides: Any) -> DecoderConfig:
    """The family's sample with these changes, as far as a network: what a conversion does before it needs weights."""
    config = family.read(tiny.sample(family.name, **overrides))
    family.build(config, "auto")
    return config


def refused(family: Family, match: str, **overrides: Any) -> FamilyError:
    with pytest.raises(FamilyError, match=match) as caught:
        read(family, **overrides)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200
    return caught.value


def wrong_values(family: Family) -> list[tuple[str, Any]]:
    """Every field with values that its type or range does not allow."""
    found: list[tuple[str, Any]] = []
    fields = {f.name for f in dataclasses.fields(family.config)} - {"model_type"}
    for name, hint in typing.get_type_hints(family.config).items():
        if name not in fields:
            continue
        allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        kind = typing.get_origin(allowed[0]) or allowed[0]
        found += [(name, value) for value in WRONG[kind] if not (value == -1 and name in LESS_IS_MEANT)]
        found += [(name, None)] if types.NoneType not in allowed else []
        zero = name in ZERO_IS_MEANT | LESS_IS_MEANT | family.config.zeros
        found += [(name, 0)] if kind is int and not zero else []
        found += [(name, 10**9)] if name in {"num_hidden_layers", "num_attention_heads"} else []
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_sample_is_read(family: Family) -> None:
    assert read(family).model_type in family.model_types


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_type_or_range(family: Family) -> None:
    for name, value in wrong_values(family):
        refused(family, name, **{name: value})


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_but_a_family_error(family: Family) -> None:
    """Any field, RoPE's too, with any value: read, or refused in the proper way."""
    chance = random.Random(family.name)
    names = [f.name for f in dataclasses.fields(family.config)] + list(family.config.aliases)
    odd = [
        -1,
        0,
        1,
        2,
        10**9,
        2**31 - 1,
        2**63,
        1.5,
        1e-320,
        1e300,
        NOT_A_NUMBER,
        "",
        "yarn",
        True,
        None,
        [],
        [1],
        [[]],
        {},
    ]
    rope = [
        "rope_type",
        "type",
        "factor",
        "rope_theta",
        "original_max_position_embeddings",
        "low_freq_factor",
        "mscale",
    ]
    rope += [
        "high_freq_factor",
        "beta_fast",
        "beta_slow",
        "mscale_all_dim",
        "attention_factor",
        "partial_rotary_factor",
    ]
    hints = []
    for _ in range(150):
        kind = chance.choice(["linear", "dynamic", "llama3", "yarn"])
        scaling = {"rope_type": kind, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        scaling[chance.choice(rope)] = chance.choice([*odd, "default", {"a": 1}])
        changes: dict[str, Any] = {chance.choice(names): chance.choice(odd), "rope_scaling": scaling}
        try:
            read(family, **changes)
        except FamilyError as error:
            hints.append(error.hint)
    assert all(hints)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("match", "changes"),
    [
        ("hidden_act is 'gelu'", {"hidden_act": "gelu"}),
        ("rope_type 'su'", {"rope_scaling": {"rope_type": "su", "factor": 2.0}}),
        ("short_factor is None", {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}),
        ("rope_type 'yarm'", {"rope_scaling": {"type": "yarm", "factor": 2.0}}),
        ("rope_type", {"rope_scaling": {"rope_type": ["yarn"]}}),
        ("lack 'factor'", {"rope_scaling": {"type": "linear"}}),
        ("factor is 'two'", {"rope_scaling": {"type": "linear", "factor": "two"}}),
        (
            "low_freq_factor",
            {"rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 4, "high_freq_factor": 4}},
        ),
        (
            "original_max_position_embeddings",
            {"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": 0}},
        ),
        ("no finite frequencies", {"rope_scaling": {"type": "yarn", "factor": 2.0, "rope_theta": 1.0}}),
        ("no finite frequencies", {"rope_scaling": {"type": "linear", "factor": 1e-320}}),
        ("rope_theta is 0", {"rope_scaling": {"type": "default", "rope_theta": 0}}),
        (
            "rope_scaling has parameters for 'full_attention'",
            {"rope_scaling": {"full_attention": {"rope_type": "default"}}},
        ),
        ("partial_rotary_factor is 0.5", {"rope_scaling": {"type": "default", "partial_rotary_factor": 0.5}}),
        ("partial_rotary_factor is 0.25", {"partial_rotary_factor": 0.25}),
        ("max_position_embeddings is 2147483647", {"max_position_embeddings": 2**31 - 1, "rope_scaling": None}),
        ("max_position_embeddings", {"rope_scaling": {"type": "linear", "factor": 1e12}}),
        ("is_causal is False", {"is_causal": False}),
        ("per_layer_config", {"per_layer_config": {"0": {"intermediate_size": 8}}}),
    ],
)
def test_what_no_family_computes(family: Family, match: str, changes: dict[str, Any]) -> None:
    if family.config.turns_parts and match.startswith("partial_rotary_factor"):
        pytest.skip("a part of each head is what it turns")
    if family.name == "phi3" and match == "original_max_position_embeddings":
        pytest.skip("the length outside of rope_scaling counts")
    refused(family, match, **changes)


@pytest.mark.parametrize(
    ("name", "match", "changes"),
    [
        (
            "llama",
            "num_attention_heads is 5, which does not divide hidden_size",
            {"num_attention_heads": 5, "num_key_value_heads": 5},
        ),
        ("llama", "num_key_value_heads is 4, which does not divide num_attention_heads", {"num_key_value_heads": 4}),
        ("llama", "13 rotated features", {"head_dim": 13}),
        ("llama", "100000000 rotated features", {"head_dim": 10**8}),
        ("llama", "dynamic", {"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
        ("mistral", "num_attention_heads is 8", {"num_attention_heads": 8, "num_key_value_heads": 2}),
        ("mistral", "layer_types", {"layer_types": ["full_attention"] * 3}),
        ("mistral", "layer_types", {"layer_types": ["sliding_attention"] * 2, "sliding_window": None}),
        ("qwen2", "layer_types", {"layer_types": ["full_attention"] * 2}),
        ("qwen2", "layer_types", {"layer_types": ["full_attention", "chunked_attention", "full_attention"]}),
        ("qwen2", "layer_types", {"layer_types": ["sliding_attention"] * 3}),
        ("qwen3", "layer_types", {"layer_types": [], "use_sliding_window": True}),
        ("mixtral", "num_experts_per_tok is 6, more than num_local_experts = 5", {"num_experts_per_tok": 6}),
        ("mixtral", "num_experts is 4, but num_local_experts", {"num_experts": 4}),
        ("mixtral", "num_local_experts is 1000000000", {"num_local_experts": 10**9}),
        ("qwen3_moe", "num_experts_per_tok is 10", {"num_experts_per_tok": 10}),
        ("qwen3_moe", "decoder_sparse_step is 0", {"decoder_sparse_step": 0}),
        ("qwen3_moe", "mlp_only_layers", {"mlp_only_layers": ["1"]}),
        ("deepseek_v2", "num_experts_per_tok is not given", {"num_experts_per_tok": ...}),
        ("deepseek_v2", "topk_method is 'noaux_tc'", {"topk_method": "noaux_tc"}),
        ("deepseek_v2", "scoring_func is 'sigmoid'", {"scoring_func": "sigmoid"}),
        ("deepseek_v2", "topk_group is not given", {"topk_method": "group_limited_greedy", "topk_group": None}),
        ("deepseek_v2", "n_group is 2", {"topk_method": "group_limited_greedy", "n_group": 2}),
        ("deepseek_v2", "num_attention_heads is 5", {"num_attention_heads": 5, "num_key_value_heads": 5}),
        ("deepseek_v2", "num_key_value_heads is 2", {"num_key_value_heads": 2}),
        ("deepseek_v32", "index_head_dim is 6, less than the rotated part", {"index_head_dim": 6}),
        ("deepseek_v32", "layer_types is", {"layer_types": ["indexed_attention", "full_attention"]}),
        ("deepseek_v32", "q_lora_rank is None", {"q_lora_rank": None}),
        ("dots1", "n_shared_experts is not given", {"n_shared_experts": ...}),
        ("hunyuan_v1_moe", "moe_topk is", {"moe_topk": [2, 8]}),
        ("hunyuan_v1_moe", "moe_topk is", {"moe_topk": [2]}),
        ("glm_moe_dsa", "index_topk_pattern does not name", {"index_topk_pattern": "FSX"}),
        ("glm_moe_dsa", "indexer_types does not name", {"indexer_types": ["shared", "full", "full"]}),
        ("gpt_oss", "num_experts_per_tok is 8, more than num_local_experts = 7", {"num_experts_per_tok": 8}),
        ("gpt_oss", "layer_types does not name", {"layer_types": ["sliding_attention"]}),
        ("ernie4_5_moe", "use_bias is True", {"use_bias": True}),
        ("ernie4_5_moe", "moe_k is 9, more than moe_num_experts = 8", {"moe_k": 9}),
        ("glm4_moe_lite", "mlp_layer_types does not name", {"mlp_layer_types": ["dense", "wide"]}),
        ("deepseek_v3", "moe_layer_freq is 2", {"moe_layer_freq": 2}),
        ("deepseek_v3", "topk_method is 'greedy'", {"topk_method": "greedy"}),
        ("deepseek_v3", "scoring_func is 'softmax'", {"scoring_func": "softmax"}),
        ("deepseek_v3", "n_group is 5", {"n_group": 5}),
        ("deepseek_v3", "n_group is 0", {"n_group": 0}),
        ("deepseek_v3", "n_group is 12", {"n_group": 12, "topk_group": 8}),
        ("deepseek_v3", "topk_group is 5, more than n_group = 4", {"topk_group": 5}),
        (
            "deepseek_v3",
            "num_experts_per_tok is 7, more than the experts of topk_group groups",
            {"num_experts_per_tok": 7},
        ),
        ("deepseek_v3", "9 rotated features", {"qk_rope_head_dim": 9}),
        ("deepseek_v3", "num_nextn_predict_layers is 1000000", {"num_nextn_predict_layers": 10**6}),
        ("qwen2_moe", "num_experts_per_tok is 8, more than num_experts = 7", {"num_experts_per_tok": 8}),
        ("qwen2_moe", "layer_types", {"layer_types": ["sliding_attention"] * 3}),
        ("olmoe", "clip_qkv is 8.0", {"clip_qkv": 8.0}),
        ("olmoe", "num_attention_heads is 3", {"num_attention_heads": 3, "num_key_value_heads": 3}),
        ("phi3", "rope_type asks for YarnRope", {"rope_scaling": {"type": "yarn", "factor": 2.0}}),
        ("phi3", "long_factor is", {"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1], "long_factor": 3}}),
        ("phi3", "short_factor is", {"rope_scaling": {"type": "longrope", "short_factor": [1, 0, 1]}}),
        ("phi3", "partial_rotary_factor is 1.5", {"partial_rotary_factor": 1.5}),
        ("phi3", "partial_rotary_factor is 0.05", {"partial_rotary_factor": 0.05}),
        ("glm4", "3 rotated features", {"partial_rotary_factor": 0.3}),
        ("granite", "logits_scaling is 0.0", {"logits_scaling": 0}),
        ("smollm3", "no_rope_layers does not say", {"no_rope_layers": [1, 0]}),
        ("smollm3", "layer_types", {"layer_types": ["sliding_attention"] * 3, "sliding_window": 5}),
        ("exaone4", "sliding_window_pattern is 'LG'", {"layer_types": None}),
        ("internlm3", "mlp_bias is True", {"bias": True}),
        ("gemma2", "final_logit_softcapping is 0.0", {"final_logit_softcapping": 0.0}),
        ("gemma2", "use_bidirectional_attention is True", {"use_bidirectional_attention": True}),
        ("gemma3_text", "attn_logit_softcapping is 3.0", {"attn_logit_softcapping": 3.0}),
        ("gemma3_text", "rope_parameters is", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
        (
            "gemma3_text",
            "scales the rotation of sliding_attention",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
        ),
        ("deepseek_v3", "lack 'factor'", {"rope_scaling": {"type": "yarn", "mscale_all_dim": 1.0}}),
    ],
)
def test_what_does_not_fit_together(name: str, match: str, changes: dict[str, Any]) -> None:
    refused(families()[name], match, **changes)


def test_unknown_model_type_lists_all_nearest_first() -> None:
    with pytest.raises(FamilyError, match="model_type 'qwen3moe' is not known") as caught:
        family_of({"model_type": "qwen3moe"})
    assert caught.value.hint.startswith("did you mean 'qwen3_moe'? known: qwen3_moe, ")
    assert all(t in caught.value.hint for f in families().values() for t in f.model_types)


def test_unknown_model_type_is_told_by_its_fields() -> None:
    raw = tiny.sample("deepseek_v3") | {"model_type": "deepseek_v9", "hc_mult": 4}
    with pytest.raises(FamilyError, match="deepseek_v9") as caught:
        family_of(raw)
    assert caught.value.hint.startswith("did you mean 'deepseek_v")
    assert caught.value.hint.endswith("; no family reads its ep_size, hc_mult")
    with pytest.raises(FamilyError) as caught:
        family_of(tiny.sample("llama") | {"model_type": "llama5"})
    assert caught.value.hint.endswith("; each of its fields is known")


@pytest.mark.parametrize(
    "raw", [{}, {"model_type": None}, {"model_type": ["llama"]}, {"architectures": ["LlamaForCausalLM"]}]
)
def test_missing_model_type(raw: dict[str, Any]) -> None:
    with pytest.raises(FamilyError, match="has no model_type") as caught:
        family_of(raw)
    assert all(name in caught.value.hint for name in families())


def test_unknown_form_of_attention() -> None:
    family = families()["llama"]
    with pytest.raises(FamilyError, match="llama has no absorbed form"):
        family.build(family.read(tiny.sample("llama")), "absorbed")


ANY_ROPE = [f for f in families().values() if f.name not in {"phi3", "gemma3_text"}]  # they have their own


@pytest.mark.parametrize("family", ANY_ROPE, ids=lambda f: f.name)
def test_both_spellings_of_rope_give_one_rotation(family: Family) -> None:
    scaling = {"factor": 4.0, "original_max_position_embeddings": 32, "mscale": 0.8, "mscale_all_dim": 0.5}
    old = {"rope_scaling": {"type": "yarn", **scaling}, "rope_theta": 5000, "rope_parameters": ...}
    new = {
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 5000.0, **scaling},
        "rope_theta": ...,
        "rope_scaling": ...,
    }
    one, two = (family.build(read(family, **form), "auto").model.rotary_emb.rope for form in (old, new))
    assert one == two


# Of transformers' configs: what changes nothing in what a trained model computes, and why. Every other field, and every
# other attribute that modeling code reads, must be a field of ours.
CHANGES_NOTHING = {
    "architectures": "names the class; the weights that bind say the same",
    "attention_dropout": "training only",
    "residual_dropout": "training only",
    "resid_pdrop": "training only",
    "embd_pdrop": "training only",
    "router_jitter_noise": "training only",
    "initializer_range": "training only",
    "router_aux_loss_coef": "training only",
    "output_router_logits": "asks for more outputs, and for the loss of training",
    "output_hidden_states": "asks for more outputs",
    "return_dict": "how outputs are wrapped",
    "use_cache": "a port always has its cache",
    "bos_token_id": "for generating",
    "eos_token_id": "for generating",
    "eod_token_id": "for generating",
    "sep_token_id": "for generating",
    "pad_token_id": "for generating, and zero gradients of its embedding",
    "dtype": "the dtype to load as: a port has its own, and verify compares in float32",
    "transformers_version": "who wrote it",
    "chunk_size_feed_forward": "read by no decoder",
    "is_encoder_decoder": "the family says",
    "id2label": "classification heads, which do not bind",
    "label2id": "classification heads, which do not bind",
    "problem_type": "classification heads, which do not bind",
    "pretraining_tp": "read by nothing since 4.46",
    "_attn_implementation": "which kernel",
}  # fmt: skip
CHANGES_NOTHING_IN = {
    "deepseek_v2": {
        "head_dim": "always set to qk_rope_head_dim",
        "norm_topk_prob": "its router does not read it: see the parity case",
    },
    "deepseek_v3": {"head_dim": "qk_rope_head_dim, or its rotation would not fit"},
    "kimi_k2": {"head_dim": "qk_rope_head_dim, or its rotation would not fit"},
    "deepseek_v32": {"head_dim": "always set to qk_rope_head_dim"},
    "glm_moe_dsa": {"head_dim": "always set to qk_rope_head_dim"},
    "olmoe": {
        "head_dim": "hidden_size / num_attention_heads, or its norms would not fit",
        "sliding_window": "handed on, but no mask is made of it",
    },
    "phi3": {"head_dim": "hidden_size / num_attention_heads, or its projections would not fit"},
    "gemma3_text": dict.fromkeys(
        ("mm_tokens_per_image", "text_config", "image_token_id", "vision_config"), "of the model that sees images, too"
    ),
}
BY_KEYWORD = {
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "per_layer_config",
    "is_causal",
}


def originals(family: Family) -> list[type[Any]]:
    """The config classes that transformers takes for a family's config.json."""
    others = {"mistral": ["ministral"]}  # where layer_types are given
    names = (family.original,) if family.original else (*family.model_types, *others.get(family.name, []))
    return [transformers.CONFIG_MAPPING[t] for t in names]


def modeling_reads(config: type[Any]) -> set[str]:
    """The attributes of the config that the model's own code reads, by any spelling that it uses."""
    module = importlib.import_module(transformers.MODEL_FOR_CAUSAL_LM_MAPPING[config].__module__)
    source = inspect.getsource(module)
    names = re.findall(r"\bconfig\.([a-z_]\w*)", source) + re.findall(r"getattr\((?:self\.)?config, \"(\w+)\"", source)
    assert {"hidden_size", "rms_norm_eps"} <= set(names)
    return {name for name in names if not callable(getattr(config, name, None))}


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_that_matters_is_overlooked(family: Family) -> None:
    ours = {f.name for f in dataclasses.fields(family.config)} | set(family.config.aliases)
    nothing = {*CHANGES_NOTHING, *CHANGES_NOTHING_IN.get(family.name, {})}
    for original in originals(family):
        theirs = {f.name for f in dataclasses.fields(original)} | set(original.attribute_map) | BY_KEYWORD
        assert theirs | modeling_reads(original) <= ours | nothing


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_transformers(family: Family) -> None:
    ours, theirs = family.config(), originals(family)[0]
    defaults = {f.name: f.default for f in dataclasses.fields(theirs)}
    defaults |= {name: defaults[other] for other, name in family.config.aliases.items() if other in defaults}
    for name in sorted({f.name for f in dataclasses.fields(family.config)} & set(defaults) - {"model_type"}):
        assert (getattr(ours, name) or None) == (defaults[name] or None), name
    theta = theirs.default_theta
    assert family.config.default_theta == (theta["global"] if isinstance(theta, dict) else theta)


def test_every_reason_is_needed() -> None:
    known = {f.name for family in families().values() for c in originals(family) for f in dataclasses.fields(c)}
    reads = {name for family in families().values() for c in originals(family) for name in modeling_reads(c)}
    assert set(CHANGES_NOTHING) <= known | reads


def test_every_sample_belongs_to_a_family() -> None:
    for path in Path(tiny.SAMPLES).glob("*/config.json"):
        assert family_of(tiny.sample(path.parent.name)).name in families()
