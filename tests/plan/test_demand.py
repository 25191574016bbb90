"""What a model asks for, beside the census and beside what is counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import ROOT
from models import DEEPSEEK_V3, LLAMA, demand

from porter.census import census
from porter.families import family_of
from porter.plan.demand import Weights

SAMPLES = sorted(ROOT.glob("samples/*/config.json"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.parent.name)
def test_every_family_asks_for_its_parameters(path: Path) -> None:
    config = json.loads(path.read_text())
    family = family_of(config)
    network = family.build(family.read(config), "auto")
    counted, found = census(network), demand(config)
    biases = sum(layer.routed.count for layer in found.layers if layer.routed)
    assert found.numbers - counted.parameters in {0, biases}
    assert found.cache_width == sum(e.heads * e.width for entries in network.cache() for e in entries)
    assert len(found.layers) == counted.layers


def test_deepseek_v3_by_its_published_sizes() -> None:
    found = demand(DEEPSEEK_V3)
    dense, routed = found.layers[0], found.layers[3]
    assert dense.routed is None
    assert routed.routed is not None
    assert (routed.routed.count, routed.routed.top_k, routed.routed.numbers) == (256, 8, 3 * 7168 * 2048)
    assert found.cache_width == 61 * (512 + 64)
    assert [w for w in dense.mlp if w.met] == [Weights("cut", "asked", 3 * 7168 * 18432, 3 * 7168 * 18432)]
    low_rank = 7168 * 1536 + 7168 * 576
    assert Weights("whole", "asked", low_rank, low_rank) in dense.projections
    heads = 1536 * 128 * 192 + 128 * 128 * 7168
    assert Weights("cut", "asked", heads, heads) in dense.projections
    kv_b = 128 * (128 + 128) * 512
    assert Weights("cut", "float", kv_b, kv_b) in dense.projections


def test_attention_by_hand() -> None:
    latent, grouped = demand(DEEPSEEK_V3).layers[0].attention, demand(LLAMA).layers[0].attention
    assert latent.absorbed(1000) == 2 * 128 * (512 + 64 + 512) * 1000
    assert latent.expanded(1000) == 2 * 128 * (128 + 64 + 128) * 1000
    assert grouped.absorbed(1000) == grouped.expanded(1000) == 2 * 8 * (8 + 8) * 1000
    assert grouped.width == 2 * 2 * 8


def test_a_window_bounds_what_is_seen() -> None:
    windowed = demand(LLAMA | {"model_type": "mistral", "sliding_window": 100}).layers[0].attention
    assert windowed.seen(50) == 50
    assert windowed.absorbed(1000) == windowed.absorbed(100)


def test_without_a_latent_every_head_is_cached() -> None:
    """The arithmetic of the facts: 61 x 128 x (192 + 128) numbers where the latent has 61 x 576."""
    found = demand(DEEPSEEK_V3)
    full = found.with_full_heads()
    assert full.cache_width == 61 * 128 * (192 + 128)
    assert full.numbers == found.numbers
    assert full.layers[0].attention.absorbed(10) == found.layers[0].attention.expanded(10)
    assert demand(LLAMA).with_full_heads() == demand(LLAMA)


def test_with_every_expert_met() -> None:
    found = demand(DEEPSEEK_V3).with_all_experts()
    assert found.layers[3].routed is not None
    assert found.layers[3].routed.top_k == 256
    assert demand(LLAMA).with_all_experts() == demand(LLAMA)
