"""What the tests of `porter plan` plan: published models by their sizes, and a device whose figures are easy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from porter.families import family_of
from porter.plan.demand import Demand, demand_of
from porter.plan.form import form_for, stored_dtype
from porter.plan.links import Fabric
from porter.plan.roofline import Machine
from porter.target import Device, Link, find_device

DEEPSEEK_V3: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "n_group": 8,
    "topk_group": 4,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "max_position_embeddings": 163840,
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}
LLAMA: dict[str, Any] = {  # small enough to count by hand
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
FIVE = ("nvidia-h20", "nvidia-h100", "ascend-910b3", "ascend-910c", "moore-threads-s5000")


def demand(config: dict[str, Any]) -> Demand:
    """What a config.json asks for."""
    family = family_of(config)
    return demand_of(family.build(family.read(config), "auto"))


def write(folder: Path, config: dict[str, Any]) -> Path:
    """A folder with a config.json and no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def machine(device: str | Device, config: dict[str, Any], *, dtype: str = "auto", cache: str = "auto") -> Machine:
    """A device that porter ships, or one of a test's own, with the form that the config's weights take on it."""
    card = find_device(device)[0] if isinstance(device, str) else device
    return Machine(card, form_for(card, stored_dtype(config), dtype, cache), Fabric(card.link))


def device(**facts: Any) -> Device:
    """A card of 1 GB and 1 GB/s that does 1 T operations per second in any float, in nodes of 4."""
    link = Link("wire", 1e8, 1, "switched", 4, 1e7, latency=1e-6, latency_between_nodes=1e-5)
    given = {
        "memory_bytes": 1_000_000_000,
        "memory_bandwidth": 1e9,
        "rates": dict.fromkeys(("bfloat16", "float32"), 1e12),
        "dtypes": ("bfloat16", "float32"),
        "link": link,
    }
    rest: dict[str, Any] = {"frontends": (), "soc": None, "variants": {}, "notes": (), "sources": {"rates": "a test"}}
    return Device(name="easy", title="easy", vendor="nobody", **rest, **(given | facts))
