"""Tiny random checkpoints, as transformers itself writes them, and the originals they load into."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from porter.verify.original import Original
from porter.verify.precision import Precision

torch.set_num_threads(1)  # in models this small, threads do nothing but wait for each other

DENSE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MLA = DENSE | {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
}
GROUPS = {"n_group": 4, "topk_group": 2}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": DENSE | {"rope_parameters": LLAMA3, "tie_word_embeddings": True},
    "llama-dynamic": DENSE
    | {
        "max_position_embeddings": 8,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    },
    "mistral": DENSE | {"sliding_window": 4},
    "qwen2": DENSE,
    "qwen3": DENSE | {"head_dim": 16},
    "mixtral": DENSE | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": DENSE
    | {
        "head_dim": 16,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
    },
    "deepseek_v2": MLA | {"q_lora_rank": None, "topk_method": "greedy"},
    "deepseek_v2-groups": MLA | GROUPS | {"q_lora_rank": 16, "topk_method": "group_limited_greedy"},
    "deepseek_v3": MLA | GROUPS | {"q_lora_rank": 16, "rope_parameters": YARN},
}


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    """Every checkpoint in turn."""
    return str(request.param)


@pytest.fixture(params=[name for name in CONFIGS if "dynamic" not in name])
def steady(request: pytest.FixtureRequest) -> str:
    """Every checkpoint whose positions are turned alike however long the sequence is."""
    return str(request.param)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a checkpoint by name: its model_type, and what is special about it."""

    @cache
    def write(name: str) -> Path:
        config = transformers.AutoConfig.for_model(name.partition("-")[0], **CONFIGS[name])
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.dim() > 1:
                tensor.data = torch.randn(tensor.shape).mul(0.2).bfloat16()
        for tensor in model.state_dict().values():
            if tensor.dim() == 1:  # norms around one, biases around zero
                tensor.add_(torch.randn(tensor.shape).mul(0.1))
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder, max_shard_size="20KB" if name == "qwen2" else "1GB")
        return folder

    return write


@pytest.fixture(scope="session")
def original(checkpoint: Callable[[str], Path]) -> Callable[..., Original]:
    """Load the original of a checkpoint, once."""

    @cache
    def load(name: str, precision: Precision = "float64") -> Original:
        return Original(checkpoint(name), precision)

    return load
