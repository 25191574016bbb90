"""Checkpoints for the benchmarks: the shapes of real models, their headers true, their content random or left out.

usage: python benchmarks/checkpoints.py NAME FOLDER [--sparse | --trained]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from porter.checkpoint import DTYPES, write_header

SHARD_BYTES = 4_240_000_000  # the shards of DeepSeek-V3 are of about this size: there are 163
BLOCK = 128  # rows and columns under one FP8 scale
RANDOM_BYTES = 32 * 2**20  # made once and repeated: no disk here packs what it stores
# In these dtypes any bytes are a finite number, below 2 in size, once the exponent's highest bit is off.
HIGHEST = {"BF16": 0xBFFF, "F16": 0xBFFF, "F32": 0xBFFFFFFF, "F8_E4M3": 0xBF}

Tensor = tuple[str, str, tuple[int, ...]]  # name, dtype as safetensors spells it, shape

LLAMA = {
    "model_type": "llama",
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
LLAMA_SIZES = {  # hidden size, intermediate size, layers, heads
    "llama-small": (1024, 2816, 4, 8),
    "llama-1gb": (2048, 5504, 8, 16),
    "llama-4gb": (3072, 8192, 16, 24),
    "llama-8gb": (4096, 11008, 18, 32),
    "llama-250m": (1024, 2816, 16, 8),
    "llama-30gb": (5120, 13824, 46, 40),
}
DEEPSEEK_V3 = {  # config.json of the release: arXiv:2412.19437, section 4.2
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "norm_topk_prob": True,
    "hidden_act": "silu",
    "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "tie_word_embeddings": False,
    "attention_bias": False,
    "torch_dtype": "bfloat16",
    "quantization_config": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
    },
}


def make(name: str, folder: Path, *, sparse: bool = False, trained: bool = False) -> int:
    """Makes one of the checkpoints that NAMES lists, in a new folder; gives the bytes of its weights.

    A sparse one has headers, and holes in place of numbers: it takes no room on the disk. One like a `trained` one has
    numbers of the size that trained ones are, so that the model computes something.
    """
    config, tensors = NAMES[name]()
    return write_checkpoint(folder, config, tensors, None if sparse else _trained if trained else _random)


def llama(name: str) -> tuple[dict[str, Any], Iterator[Tensor]]:
    """A dense model with as many key heads as query heads, in bfloat16."""
    hidden, inner, layers, heads = LLAMA_SIZES[name]
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    config = LLAMA | sizes | {"num_attention_heads": heads, "num_key_value_heads": heads}
    return config, _llama_tensors(config)


def deepseek_v3() -> tuple[dict[str, Any], Iterator[Tensor]]:
    """DeepSeek-V3 as released: 61 layers and one for multi-token prediction, 685 billion parameters, mostly FP8."""
    return DEEPSEEK_V3, _deepseek_tensors(DEEPSEEK_V3)


def deepseek_v3_layer(experts: int) -> tuple[dict[str, Any], Iterator[Tensor]]:
    """One layer of it with so many experts; of the vocabulary only as much as makes a model."""
    one = {"num_hidden_layers": 1, "first_k_dense_replace": 0, "num_nextn_predict_layers": 0, "vocab_size": 1280}
    config = DEEPSEEK_V3 | one | {"n_routed_experts": experts}
    return config, _deepseek_tensors(config)


NAMES = {
    **{name: lambda name=name: llama(name) for name in LLAMA_SIZES},
    "deepseek-v3-small": lambda: deepseek_v3_layer(16),
    "deepseek-v3-layer": lambda: deepseek_v3_layer(256),
    "deepseek-v3": deepseek_v3,
}


Fill = Callable[[Tensor], memoryview]  # bytes to repeat


def write_checkpoint(folder: Path, config: dict[str, Any], tensors: Iterator[Tensor], fill: Fill | None) -> int:
    """Writes config.json, the shards, and where there are several the index; gives the bytes of the weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    shards = _shards(tensors)
    many, index = len(shards) > 1, {}
    for n, shard in enumerate(shards, 1):
        file = f"model-{n:05d}-of-{len(shards):06d}.safetensors" if many else "model.safetensors"
        _write_shard(folder / file, shard, fill)
        index |= {name: file for name, _, _ in shard}
    total = sum(nbytes(tensor) for shard in shards for tensor in shard)
    if many:
        document = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(document, indent=2))
    return total


def _llama_tensors(config: dict[str, Any]) -> Iterator[Tensor]:
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", "BF16", (vocabulary, hidden)
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        yield from ((f"{layer}.self_attn.{p}_proj.weight", "BF16", (hidden, hidden)) for p in "qkvo")
        yield from ((f"{layer}.mlp.{p}_proj.weight", "BF16", (inner, hidden)) for p in ("gate", "up"))
        yield f"{layer}.mlp.down_proj.weight", "BF16", (hidden, inner)
        yield from ((f"{layer}.{p}_layernorm.weight", "BF16", (hidden,)) for p in ("input", "post_attention"))
    yield "model.norm.weight", "BF16", (hidden,)
    yield "lm_head.weight", "BF16", (vocabulary, hidden)


def _deepseek_tensors(config: dict[str, Any]) -> Iterator[Tensor]:
    hidden, vocabulary, layers = config["hidden_size"], config["vocab_size"], config["num_hidden_layers"]
    table = (vocabulary, hidden)
    yield "model.embed_tokens.weight", "BF16", table
    for n in range(layers + config["num_nextn_predict_layers"]):
        layer = f"model.layers.{n}"
        yield from _latent_attention(f"{layer}.self_attn", config)
        if n < config["first_k_dense_replace"]:
            yield from _mlp(f"{layer}.mlp", hidden, config["intermediate_size"])
        else:
            yield from _experts(f"{layer}.mlp", config)
        yield from ((f"{layer}.{p}_layernorm.weight", "BF16", (hidden,)) for p in ("input", "post_attention"))
        if n >= layers:
            yield f"{layer}.embed_tokens.weight", "BF16", table
            yield from ((f"{layer}.{p}.weight", "BF16", (hidden,)) for p in ("enorm", "hnorm", "shared_head.norm"))
            yield f"{layer}.eh_proj.weight", "BF16", (hidden, 2 * hidden)
            yield f"{layer}.shared_head.head.weight", "BF16", table
    yield "model.norm.weight", "BF16", (hidden,)
    yield "lm_head.weight", "BF16", table


def _latent_attention(name: str, config: dict[str, Any]) -> Iterator[Tensor]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    queries, latent, rope = config["q_lora_rank"], config["kv_lora_rank"], config["qk_rope_head_dim"]
    nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
    yield from _fp8(f"{name}.q_a_proj.weight", queries, hidden)
    yield f"{name}.q_a_layernorm.weight", "BF16", (queries,)
    yield from _fp8(f"{name}.q_b_proj.weight", heads * (nope + rope), queries)
    yield from _fp8(f"{name}.kv_a_proj_with_mqa.weight", latent + rope, hidden)
    yield f"{name}.kv_a_layernorm.weight", "BF16", (latent,)
    yield from _fp8(f"{name}.kv_b_proj.weight", heads * (nope + value), latent)
    yield from _fp8(f"{name}.o_proj.weight", hidden, heads * value)


def _experts(name: str, config: dict[str, Any]) -> Iterator[Tensor]:
    hidden, inner, experts = config["hidden_size"], config["moe_intermediate_size"], config["n_routed_experts"]
    yield f"{name}.gate.weight", "BF16", (experts, hidden)
    yield f"{name}.gate.e_score_correction_bias", "F32", (experts,)
    for e in range(experts):
        yield from _mlp(f"{name}.experts.{e}", hidden, inner)
    yield from _mlp(f"{name}.shared_experts", hidden, inner * config["n_shared_experts"])


def _mlp(name: str, hidden: int, inner: int) -> Iterator[Tensor]:
    yield from _fp8(f"{name}.gate_proj.weight", inner, hidden)
    yield from _fp8(f"{name}.up_proj.weight", inner, hidden)
    yield from _fp8(f"{name}.down_proj.weight", hidden, inner)


def _fp8(name: str, rows: int, columns: int) -> Iterator[Tensor]:
    yield name, "F8_E4M3", (rows, columns)
    yield f"{name}_scale_inv", "F32", (-(-rows // BLOCK), -(-columns // BLOCK))


def _shards(tensors: Iterator[Tensor]) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + nbytes(tensor) > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += nbytes(tensor)
    return shards


def _write_shard(path: Path, shard: list[Tensor], fill: Fill | None) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(write_header(shard))
        if fill is None:
            file.truncate(file.tell() + sum(nbytes(tensor) for tensor in shard))
            return
        for tensor in shard:
            _write_repeated(file.fileno(), fill(tensor), nbytes(tensor))
        os.fsync(file.fileno())  # what is measured next must not wait for it


def _write_repeated(descriptor: int, source: memoryview, left: int) -> None:
    while left:
        left -= os.write(descriptor, source[:left])


def _random(tensor: Tensor) -> memoryview:
    return _any_bytes(tensor[1])


@cache
def _any_bytes(dtype: str) -> memoryview:
    words = np.random.default_rng(0).integers(0, 256, RANDOM_BYTES, np.uint8).view(f"u{DTYPES[dtype].itemsize}")
    words &= words.dtype.type(HIGHEST[dtype])
    return words.view(np.uint8).data


def _trained(tensor: Tensor) -> memoryview:
    """Norms around one, all else around zero; each tensor begins elsewhere in what is repeated."""
    name, dtype, shape = tensor
    if dtype != "BF16":
        raise SystemExit(f"{name}: only bfloat16 is made like trained weights")
    numbers = _normal()[zlib.crc32(name.encode()) % (RANDOM_BYTES // 4) :]
    made = (1 + numbers[: shape[0]] if len(shape) == 1 else numbers * shape[-1] ** -0.5).astype(ml_dtypes.bfloat16)
    return made.view(np.uint8).data


@cache
def _normal() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(RANDOM_BYTES // 2, np.float32)


def nbytes(tensor: Tensor) -> int:
    """The bytes of a tensor."""
    return math.prod(tensor[2]) * DTYPES[tensor[1]].itemsize


def main() -> None:
    """Makes one checkpoint and prints its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sparse", action="store_true", help="headers only, holes in place of numbers")
    parser.add_argument("--trained", action="store_true", help="numbers of the size of trained ones")
    given = parser.parse_args()
    size = make(given.name, given.folder, sparse=given.sparse, trained=given.trained)
    print(f"{given.folder}: {size / 1e9:.2f} GB of weights")


if __name__ == "__main__":
    main()
