"""The checkpoints to try, beyond each family's sample: a table of what is changed in it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tiny
import torch
from safetensors.torch import load_file
from stories import Case

from porter.families import Family, families

LINEAR = {"type": "linear", "factor": 3.0}
DYNAMIC = {"rope_scaling": {"type": "dynamic", "factor": 2.5}}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_scaling": None},
    "linear": {"rope_scaling": LINEAR},
    "linear-unraised": {"rope_scaling": LINEAR, "max_position_embeddings": 16},
    "linear-mscale": {"rope_scaling": LINEAR | {"mscale_all_dim": 0.7}},
    "dynamic": DYNAMIC | {"max_position_embeddings": 8},
    "dynamic-far": DYNAMIC | {"max_position_embeddings": 500},
    "llama3": {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 32}, "rope_theta": 1e4},
    "yarn": {"rope_scaling": YARN},
    "yarn-mscale-equal": {"rope_scaling": YARN | {"mscale": 0.8, "mscale_all_dim": 0.8}},
    "yarn-mscale-unequal": {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.6}},
    "yarn-mscale-alone": {"rope_scaling": YARN | {"mscale": 0.7}},
    "yarn-mscale-all-dim-alone": {"rope_scaling": YARN | {"mscale_all_dim": 0.7}},
    "yarn-attention-factor": {"rope_scaling": YARN | {"attention_factor": 0.9, "beta_fast": 16, "beta_slow": 2}},
    "yarn-untruncated": {"rope_scaling": YARN | {"truncate": False}},
    "yarn-length-outside": {"rope_scaling": YARN, "original_max_position_embeddings": 24},
    "yarn-length-missing": {"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 25},
    "yarn-new-form": {"rope_scaling": ..., "rope_theta": ..., "rope_parameters": YARN | {"rope_theta": 5e3}},
}
REACH = {"dynamic": 48, "dynamic-far": 3000, "linear-unraised": 48, "yarn-length-missing": 100}
MAIN_ROPES = {  # by default each kind once or twice; all kinds on all families are slow
    "llama": ("default", "linear-unraised", "dynamic", "yarn", "yarn-attention-factor", "yarn-untruncated"),
    "mistral": ("yarn-length-outside",),
    "qwen2": ("yarn-mscale-alone", "dynamic"),
    "qwen3": ("yarn-new-form", "dynamic-far"),
    "mixtral": ("llama3", "yarn-length-missing"),
    "qwen3_moe": ("yarn-mscale-unequal", "dynamic"),
    "glm4": ("yarn",),
    "gemma3_text": ("default",),
    "deepseek_v2": ("default", "linear-mscale", "yarn-mscale-unequal", "yarn-mscale-alone", "yarn-attention-factor"),
    "deepseek_v3": (
        "default", "dynamic-far", "llama3", "yarn", "yarn-mscale-unequal", "yarn-mscale-all-dim-alone", "yarn-new-form",
    ),
    "deepseek_v32": ("default", "dynamic"),
    "glm4_moe": ("yarn-new-form",),
    "minimax_m2": ("dynamic",),
}  # fmt: skip


def _names(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def own_head(folder: Path) -> None:
    """An output projection of its own, although the config says tied: transformers keeps it then."""
    tiny.edit_tensors(folder, add={"lm_head.weight": _names(folder)["model.embed_tokens.weight"].flip(0) * 1.5})


def same_head(folder: Path) -> None:
    """The tied output projection written a second time."""
    tiny.edit_tensors(folder, add={"lm_head.weight": _names(folder)["model.embed_tokens.weight"].clone()})


def old_frequencies(folder: Path) -> None:
    """What old checkpoints carry, here with numbers that nobody may read."""
    tiny.edit_tensors(folder, add={"model.layers.0.self_attn.rotary_emb.inv_freq": torch.full((6,), 9.0)})


def predictor(folder: Path) -> None:
    """A multi-token-prediction layer behind the last, as DeepSeek-V3 is published."""
    tensors, front = _names(folder), "model.layers.3."
    embedding, width = tensors["model.embed_tokens.weight"], tensors["model.norm.weight"].shape[0]
    added = {n.replace(".2.", ".3.", 1): t.clone() for n, t in tensors.items() if n.startswith("model.layers.2.")}
    added |= {front + n: embedding.clone() for n in ("embed_tokens.weight", "shared_head.head.weight")}
    added |= {front + n: torch.ones(width) for n in ("enorm.weight", "hnorm.weight", "shared_head.norm.weight")}
    tiny.edit_tensors(folder, add=added | {front + "eh_proj.weight": torch.ones(width, 2 * width)})


def fp8(folder: Path) -> None:
    """Projections in DeepSeek's FP8 form, in blocks that divide hardly any side."""
    rows, columns = 16, 10
    added: dict[str, torch.Tensor] = {}
    for name, tensor in _names(folder).items():
        if tensor.dim() == 2 and name.endswith("proj.weight"):
            height, width = tensor.shape
            blocks = torch.nn.functional.pad(tensor, (0, -width % columns, 0, -height % rows))
            blocks = blocks.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))  # [blocks, rows, blocks, columns]
            scale = blocks.abs().amax((1, 3)) / 448
            quantised = (blocks / scale[:, None, :, None]).flatten(2, 3).flatten(0, 1)[:height, :width]
            added |= {name: quantised.to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}
    tiny.edit_tensors(folder, add=added)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [rows, columns]}
    (folder / "config.json").write_text(json.dumps(config))


def changed(**overrides: Any) -> Case:
    return Case("", config=overrides)


TIED = {"tie_word_embeddings": True}
SMALL = dict.fromkeys(("embed_tokens", "q_proj", "k_proj", "q_a_proj", "kv_a_proj_with_mqa"), 0.05)
SHORT = {"dynamic", "dynamic-far", "linear-unraised", "yarn-length-missing", "yarn-new-form"}  # not beside a plain one
THOROUGH = {"llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3"}
MAIN_GENERAL = {"sample", "as-transformers-writes-it", "one-layer", "epsilon-that-counts"}
GENERAL: dict[str, Case] = {
    "sample": changed(),
    "float16-on-disk": Case("", options={"dtype": torch.float16}),
    "bfloat16-on-disk": Case("", options={"dtype": torch.bfloat16}, slow=True),
    "fp8-on-disk": Case("", disk=fp8),
    "sharded": Case("", options={"shard": "30KB"}),
    "as-transformers-writes-it": Case("", options={"verbatim": False}),
    "in-the-older-form": Case("", options={"verbatim": False}, disk=tiny.respell),
    "tied": Case("", config=TIED),
    "tied-with-another-head": Case("", config=TIED, disk=own_head),
    "tied-with-the-same-head": Case("", config=TIED, disk=same_head, slow=True),
    "epsilon-that-counts": Case("", config={"rms_norm_eps": 1e-5}, options={"gains": SMALL}),
    "one-layer": changed(num_hidden_layers=1, layer_types=...),
}
HEADS: dict[str, Case] = {  # of families with plain heads
    "wide-heads": changed(head_dim=18),
    "narrow-heads": changed(head_dim=6),
    "one-group": changed(num_key_value_heads=1),
    "as-many-groups-as-heads": changed(num_attention_heads=4, num_key_value_heads=4, head_dim=14),
}
WINDOW = {"use_sliding_window": True, "sliding_window": 5, "layer_types": ...}
LATENT: dict[str, Case] = {  # of families with latent attention
    "expanded": Case("", form="expanded"),
    "biases": changed(attention_bias=True),
    "biases-expanded": Case("", config={"attention_bias": True}, form="expanded"),
    "all-dense": changed(first_k_dense_replace=3),
    "no-dense": changed(first_k_dense_replace=0),
    "values-wider-than-keys": changed(v_head_dim=30),
    "one-head": changed(num_attention_heads=1, num_key_value_heads=1),
    "no-key-value-heads": changed(num_key_value_heads=None),
    "one-expert-each": changed(num_experts_per_tok=1),
    "fused-experts": Case("", options={"fused": True}),
}
MAIN_LATENT = ("expanded", "fused-experts")  # of families whose blocks others have tried
OWN: dict[str, dict[str, Case]] = {
    "llama": {
        "biases": changed(attention_bias=True, mlp_bias=True),
        "odd-sizes": changed(hidden_size=35, num_attention_heads=5, num_key_value_heads=1, intermediate_size=51),
        "head-dim-by-division": changed(head_dim=...),
        "no-key-value-heads": changed(num_key_value_heads=None),
        "old-frequencies": Case("", disk=old_frequencies),
    },
    "mistral": {
        "no-window": changed(sliding_window=None),
        "window-of-one": changed(sliding_window=1),
        "wide-window": changed(sliding_window=100),
        "windows-by-layer-types": changed(layer_types=["full_attention", "sliding_attention"], head_dim=10),
    },
    "qwen2": {
        "windows-from-layer-1": changed(**WINDOW, max_window_layers=1),
        "windows-everywhere": changed(**WINDOW, max_window_layers=0),
        "windows-by-layer-types": changed(
            **WINDOW | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
        ),
    },
    "qwen3": {
        "biases": changed(attention_bias=True),
        "windows-from-layer-1": changed(**WINDOW, max_window_layers=1),
        "windows-by-layer-types": changed(**WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}),
        "layer-types-without-windows": changed(use_sliding_window=True, sliding_window=None),
    },
    "mixtral": {
        "window": changed(sliding_window=4),
        "one-expert-each": changed(num_experts_per_tok=1),
        "all-experts": changed(num_experts_per_tok=5),
        "one-expert-in-all": changed(num_local_experts=1, num_experts_per_tok=1),
        "fused-experts": Case("", options={"fused": True}),
        "another-name-for-experts": changed(num_local_experts=..., num_experts=6),
    },
    "qwen3_moe": {
        "unnormalised": changed(norm_topk_prob=False),
        "biases": changed(attention_bias=True),
        "window": changed(use_sliding_window=True, sliding_window=4, max_window_layers=1),
        "dense-layer-1": changed(mlp_only_layers=[1]),
        "experts-in-every-second-layer": changed(decoder_sparse_step=2),
        "experts-in-every-second-layer-but-one": changed(decoder_sparse_step=2, mlp_only_layers=[1]),
        "fused-experts": Case("", options={"fused": True}),
        "all-experts": changed(num_experts_per_tok=9),
    },
    "deepseek_v2": {
        "low-rank-queries": changed(q_lora_rank=20),
        "low-rank-queries-biased": changed(q_lora_rank=20, attention_bias=True, mlp_bias=True),
        "groups": changed(topk_method="group_limited_greedy", n_routed_experts=12, n_group=4, topk_group=2),
        "groups-all-taken": changed(
            topk_method="group_limited_greedy", n_routed_experts=8, n_group=4, topk_group=2, num_experts_per_tok=4
        ),
        "groups-of-one": changed(topk_method="group_limited_greedy", n_group=7, topk_group=4),
        "scaled": changed(routed_scaling_factor=16.0),
        "norm-that-nobody-reads": changed(norm_topk_prob=True),
        "one-shared-expert": changed(n_shared_experts=1),
        "another-name-for-experts": changed(n_routed_experts=..., num_experts=6),
    },
    "deepseek_v3": {
        "no-low-rank-queries": changed(q_lora_rank=None),
        "odd-sizes": changed(
            hidden_size=41, qk_nope_head_dim=7, kv_lora_rank=15, v_head_dim=9, moe_intermediate_size=11
        ),
        "halves": changed(rope_interleave=False),
        "halves-expanded": Case("", config={"rope_interleave": False}, form="expanded"),
        "one-group": changed(n_group=1, topk_group=1),
        "all-groups": changed(topk_group=4),
        "groups-all-taken": changed(n_group=6, topk_group=2),
        "unnormalised": changed(norm_topk_prob=False),
        "unscaled": changed(routed_scaling_factor=1.0),
        "two-shared-experts": changed(n_shared_experts=2),
        "predictor": Case("", disk=predictor),
        "predictor-by-default": Case("", config={"num_nextn_predict_layers": ...}, disk=predictor),
    },
    "deepseek_v32": {
        "one-key-each": changed(index_topk=1),
        "more-keys-than-there-are": changed(index_topk=500),
        "index-heads-all-turned": changed(index_head_dim=8),
        "by-mlp-layer-types": changed(mlp_layer_types=["sparse", "dense"]),
    },
    "dots1": {
        "no-windows": changed(max_window_layers=3),
        "windows-by-layer-types": changed(layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
        "biases": changed(attention_bias=True),
        "normalised-by-default-not": changed(norm_topk_prob=...),
        "groups": changed(n_group=3, topk_group=2),
    },
    "ernie4_5_moe": {
        "no-shared-experts": changed(moe_num_shared_experts=0),
        "some-layers": changed(moe_layer_start_index=0, moe_layer_end_index=1, moe_layer_interval=2),
        "least-that-counts": changed(moe_norm_min=0.6),
    },
    "glm4_moe": {
        "plain-heads": changed(use_qk_norm=False, attention_bias=False),
        "half-by-default": changed(partial_rotary_factor=..., head_dim=12),
        "all-turned": changed(partial_rotary_factor=1.0),
        "in-rope-parameters": changed(
            partial_rotary_factor=...,
            rope_scaling=...,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4} | {"partial_rotary_factor": 0.34},
        ),
        "groups": changed(n_routed_experts=8, n_group=4, topk_group=2),
    },
    "glm4_moe_lite": {
        "by-mlp-layer-types": changed(mlp_layer_types=["sparse", "dense"]),
        "a-field-that-nobody-reads": changed(first_k_dense_replace=0),
        "halves": changed(rope_interleave=False),
    },
    "glm_moe_dsa": {
        "an-indexer-in-each-layer": changed(index_topk_freq=1),
        "by-pattern": changed(index_topk_pattern="FSS", index_topk_freq=...),
        "by-indexer-types": changed(indexer_types=["full", "shared", "full"]),
        "more-keys-than-there-are": changed(index_topk=500),
    },
    "gpt_oss": {
        "no-biases": changed(attention_bias=False),
        "windows-by-default": changed(layer_types=...),
        "limit-by-default": changed(swiglu_limit=...),
        "another-alpha": changed(swiglu_alpha=1.0),
        "as-many-groups-as-heads": changed(num_key_value_heads=6),
        "rotation-by-default": Case(
            "", config={"rope_scaling": ..., "rope_theta": ..., "max_position_embeddings": 131072}, reach=9000
        ),
        "all-experts": changed(num_experts_per_tok=7),
    },
    "hunyuan_v1_moe": {
        "no-stretch": changed(rope_scaling=None),
        "a-number-for-each-layer": changed(moe_topk=[2, 3]),
        "biases": changed(attention_bias=True),
    },
    "minimax_m2": {
        "whole-heads": changed(rotary_dim=...),
        "a-part-by-factor": changed(rotary_dim=8, partial_rotary_factor=0.41),
        "one-expert-each": changed(num_experts_per_tok=1),
    },
}


IMPOSSIBLE = {  # of what applies to all of a kind: what transformers' own config does not take
    "deepseek_v32": {"no-key-value-heads"},
    "glm4_moe": {"in-the-older-form"},  # which leaves no place for partial_rotary_factor
    "glm4_moe_lite": {"no-key-value-heads"},
    "glm_moe_dsa": {"no-key-value-heads"},
}


OWN |= {
    "qwen2_moe": {
        "normalised": changed(norm_topk_prob=True),
        "no-biases": changed(qkv_bias=False),
        "windows": changed(use_sliding_window=True, sliding_window=4, max_window_layers=2),
        "windows-by-layer-types": changed(
            use_sliding_window=True,
            sliding_window=4,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
        ),
        "experts-in-every-second-layer": changed(decoder_sparse_step=2, mlp_only_layers=[]),
        "fused-experts": Case("", options={"fused": True}),
    },
    "olmoe": {
        "normalised": changed(norm_topk_prob=True),
        "biases": changed(attention_bias=True),
        "all-experts": changed(num_experts_per_tok=8),
        "as-many-groups-as-heads": changed(num_key_value_heads=4),
        "fused-experts": Case("", options={"fused": True}),
    },
    "phi3": {
        "whole-heads": changed(rope_scaling=None, partial_rotary_factor=...),
        "window": changed(sliding_window=4),
        "short-only": Case("", config={"original_max_position_embeddings": 96}),
        "attention-factor": changed(
            rope_scaling={
                "rope_type": "longrope", "attention_factor": 1.2,
                "short_factor": [1.0] * 3, "long_factor": [3.0, 4, 5.5],
            }
        ),
        "one-group": changed(num_key_value_heads=1),
    },
    "olmo2": {"biases": changed(attention_bias=True)},
    "granite": {
        "biases": changed(attention_bias=True, mlp_bias=True),
        "no-multipliers": changed(
            embedding_multiplier=1, attention_multiplier=0.3, residual_multiplier=1, logits_scaling=1
        ),
    },
    "granitemoe": {
        "biases": changed(attention_bias=True),
        "one-expert-each": changed(num_experts_per_tok=1),
        "all-experts": changed(num_experts_per_tok=6),
        "fused-experts": Case("", options={"fused": True}),
    },
    "smollm3": {
        "by-interval": changed(no_rope_layers=..., no_rope_layer_interval=2),
        "windows": changed(use_sliding_window=True, sliding_window=4, layer_types=...),
        "biases": changed(attention_bias=True, mlp_bias=True),
    },
    "glm4": {
        "no-biases": changed(attention_bias=False),
        "half-of-each-head-by-default": changed(partial_rotary_factor=...),
        "whole-heads": changed(partial_rotary_factor=1.0),
        "wide-heads": changed(head_dim=16),
        "narrow-heads": changed(head_dim=4),
    },
    "seed_oss": {
        "all-biases": changed(attention_out_bias=True, mlp_bias=True),
        "no-biases": changed(attention_bias=False),
    },
    "exaone4": {
        "one-layer": changed(num_hidden_layers=1, layer_types=["full_attention"]),
        "no-windows": changed(sliding_window=None, layer_types=["full_attention"] * 3),
        "windows-by-pattern": changed(sliding_window_pattern=2, layer_types=...),
    },
    "hunyuan_v1_dense": {
        "biases": changed(attention_bias=True),
        "dynamic-without-alpha": Case("", config=DYNAMIC | {"max_position_embeddings": 8}, reach=48),
    },
    "internlm3": {"biases": changed(qkv_bias=True, bias=True)},
    "gemma2": {
        "no-caps": changed(attn_logit_softcapping=None, final_logit_softcapping=None),
        "biases": changed(attention_bias=True),
        "activation-by-its-other-name": changed(hidden_act=..., hidden_activation="gelu_pytorch_tanh"),
        "no-windows": changed(layer_types=["full_attention"] * 2),
    },
    "gemma3_text": {
        "capped-logits": changed(final_logit_softcapping=4.0),
        "windows-everywhere": changed(layer_types=["sliding_attention"] * 3),
        "rotations-in-the-new-form": changed(
            rope_theta=..., rope_scaling=..., rope_local_base_freq=...,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e3},
            },
        ),
        "activation-by-its-other-name": changed(hidden_act=..., hidden_activation="gelu_pytorch_tanh"),
    },
}  # fmt: skip


def cases_of(family: Family) -> Iterator[Case]:
    """Every case of a family: what applies to any, then its own."""
    fields = {f.name for f in dataclasses.fields(family.config)}
    named = dict(GENERAL)
    if family.name not in THOROUGH:
        named = {name: dataclasses.replace(c, slow=name not in MAIN_GENERAL) for name, c in named.items()}
    if "head_dim" in fields and not family.config.turns_parts:
        named |= HEADS
    if family.forms:
        brief = family.name not in THOROUGH
        named |= {n: dataclasses.replace(c, slow=brief and n not in MAIN_LATENT) for n, c in LATENT.items()}
    named |= OWN.get(family.name, {})
    main = MAIN_ROPES.get(family.name, ())
    heads = {"head_dim": 12} if "head_dim" in fields else {}  # transformers does not divide for every kind
    for name, rope in ROPES.items():
        if (family.name == "phi3" and name != "default") or (family.name == "gemma3_text" and name in SHORT):
            continue
        config = {"rope_parameters": ..., **heads, **rope}
        named[name] = Case("", config=config, reach=REACH.get(name), slow=name not in main)
    for name, case in named.items():
        if name in IMPOSSIBLE.get(family.name, ()):
            continue
        yield dataclasses.replace(case, family=family.name, name=name)


def all_cases() -> list[Case]:
    return [case for family in families().values() for case in cases_of(family)]
