"""What a card holds, to the byte."""

from __future__ import annotations

import pytest
from models import DEEPSEEK_V3, LLAMA, demand, machine

from porter.plan.form import Form
from porter.plan.split import Placed, Split, Work, misfit, splits

BF16 = Form("bfloat16", "bfloat16", "bfloat16")
ONE = Split(1, 1, 1)
TABLES = 2 * 4096 * 4  # cosines and sines of half a head of 8, for every position


def placed(config: dict[str, object], split: Split, form: Form = BF16) -> Placed:
    return Placed(demand(config), form, split)


def test_one_card_holds_all_weights_and_the_cache_of_all_layers() -> None:
    """4 layers of 2 heads of keys and of values, 8 wide, in bfloat16."""
    whole = placed(LLAMA, ONE)
    (held,) = whole.held
    assert held[1] == 2 * (whole.demand.numbers + TABLES)
    assert held[2] == 4 * (2 * 2 * 8) * 2


def test_fp8_weights_leave_the_rest_as_it_is() -> None:
    """671 GB and the second byte of what is never quantized: embeddings, kv_b_proj, norms; routers have four."""
    form = machine("nvidia-h100", DEEPSEEK_V3).form
    whole = placed(DEEPSEEK_V3, ONE, form)
    second = (
        2 * 129280 * 7168 + 61 * 128 * 256 * 512 + 7168 + 61 * (7168 + 1536 + 512 + 7168) + 58 * 3 * (256 * 7168 + 256)
    )
    assert whole.held[0][1] == whole.demand.numbers + second + 2 * whole.demand.tables.numbers


def test_tensor_parallelism_cuts_all_but_norms_and_what_has_fewer_heads() -> None:
    ((_, weights, cache),) = placed(LLAMA, Split(8, 1, 1)).held
    norms = (4 * 2 + 1) * 64
    keys_and_values = 4 * 2 * 64 * (2 * 8)  # two heads over eight ranks: a whole head on each
    rest = demand(LLAMA).numbers - norms - keys_and_values
    assert weights == 2 * (norms + keys_and_values // 2 + rest // 8 + TABLES)
    assert cache == 4 * (2 * 8) * 2


def test_biases_go_with_the_rows_that_they_stand_behind() -> None:
    """Of queries, keys and values; what stands behind a sum is whole."""
    biased = LLAMA | {"attention_bias": True}
    plain, more = (placed(config, Split(4, 1, 1)).held[0][1] for config in (LLAMA, biased))
    assert more - plain == 2 * 4 * (64 // 4 + 2 * 16 // 2 + 64)


def test_a_latent_is_whole_on_every_rank_and_split_over_groups() -> None:
    form = machine("nvidia-h100", DEEPSEEK_V3).form
    caches = {split: placed(DEEPSEEK_V3, split, form).held[0][2] for split in (ONE, Split(8, 1, 1), Split(1, 8, 1))}
    assert set(caches.values()) == {61 * 576 * 2}


def test_experts_are_divided_over_groups_and_their_columns_over_tp() -> None:
    form, one = machine("nvidia-h100", DEEPSEEK_V3).form, 3 * 7168 * 2048
    alone = placed(DEEPSEEK_V3, Split(1, 256, 1), form)
    assert alone.experts_held == 1
    assert placed(DEEPSEEK_V3, Split(1, 128, 1), form).held[0][1] - alone.held[0][1] == 58 * one
    assert placed(DEEPSEEK_V3, Split(1, 144, 1), form).experts_held == 2, "288 places for 256 experts"


def test_stages_are_contiguous_and_the_first_have_what_is_left() -> None:
    stages = placed(DEEPSEEK_V3, Split(1, 1, 2)).stages
    assert [sum(count for _, count in stage.layers) for stage in stages] == [31, 30]
    assert [(stage.first, stage.last) for stage in stages] == [(True, False), (False, True)]
    assert [sum(count for layer, count in stage.layers if not layer.routed) for stage in stages] == [3, 0]


def test_a_tied_embedding_is_held_by_both_ends_of_a_pipeline() -> None:
    tied = LLAMA | {"tie_word_embeddings": True}
    one, two = placed(tied, ONE), placed(tied, Split(1, 1, 2))
    table = 2 * 1000 * 64
    assert one.held[0][1] == placed(LLAMA, ONE).held[0][1] - table
    assert sum(weights for _, weights, _ in two.held) == one.held[0][1] + table + 2 * TABLES


@pytest.mark.parametrize("split", [ONE, Split(2, 1, 1), Split(1, 1, 2), Split(2, 1, 4)])
def test_as_many_sequences_fit_as_memory_has_room_for(split: Split) -> None:
    p, work = placed(LLAMA, split), Work(4096, 128)
    most = p.most_sequences(40_000_000, work)
    assert most % split.pp == 0
    assert p.bytes_per_card(most, work) <= 40_000_000 < p.bytes_per_card(most + split.pp, work)
    assert p.most_sequences(1000, work) == 0


def test_only_splits_whose_sizes_divide_are_looked_at() -> None:
    """64 columns by 8 heads, 160 wide, 1000 words, 2 groups of keys: tp is 1, 2, 4 or 8; a dense model has no ep."""
    found = [list(splits(demand(LLAMA), cards, None)) for cards in (1, 2, 3, 4, 8, 16)]
    assert [[(s.tp, s.ep, s.pp) for s in each] for each in found] == [
        [(1, 1, 1)],
        [(1, 1, 2), (2, 1, 1)],
        [(1, 1, 3)],
        [(1, 1, 4), (2, 1, 2), (4, 1, 1)],
        [(2, 1, 4), (4, 1, 2), (8, 1, 1)],
        [(4, 1, 4), (8, 1, 2)],
    ]
    assert all(s.tp <= 2 for s in splits(demand(LLAMA), 8, 2))


@pytest.mark.parametrize(
    ("split", "says"),
    [
        (Split(3, 1, 1), "the next that does is 4"),
        (Split(1, 2, 1), "no routed experts"),
        (Split(1, 1, 5), "more than the 4 layers"),
        (Split(8, 1, 4), None),
    ],
)
def test_a_split_that_cannot_be_says_why(split: Split, says: str | None) -> None:
    reason = misfit(demand(LLAMA), split)
    assert (reason is None) if says is None else says in str(reason)


def test_what_was_cached_is_not_computed() -> None:
    """A quarter of 1000 tokens is left: each sees 750 and on average half of its own."""
    work = Work(context=1, prompt=1000, cached=0.75)
    assert (work.computed, work.mean_context) == (250, 750 + 125.5)
    assert Work(1, 1000).mean_context == 500.5
