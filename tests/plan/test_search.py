"""The search finds what looking at every split finds, and looks at few."""

from __future__ import annotations

from dataclasses import replace

import pytest
from models import DEEPSEEK_V3, FIVE, LLAMA, demand, device, machine

from porter.plan.demand import Demand
from porter.plan.roofline import Machine, Roofline
from porter.plan.search import Ask, _bound, search, within
from porter.plan.split import Placed, Split, Work, splits
from porter.target import Link

V3 = demand(DEEPSEEK_V3)
ASKS = {
    "as many as fit": Ask(Work(4096, 4096)),
    "in time": Ask(Work(4096, 4096), slo=0.03),
    "few": Ask(Work(4096, 4096), batch=100),
    "one, in time": Ask(Work(4096, 4096), batch=1, slo=0.02),
    "prefill": Ask(Work(4096, 2048), phase="prefill"),
    "long": Ask(Work(65536, 8192), slo=0.05),
    "ahead": Ask(Work(4096, 4096, accepted=1.7), slo=0.03),
}


def every(model: Demand, card: Machine, cards: int, ask: Ask) -> list[float]:
    """What every split reaches, 0 where it does not do what is asked."""
    lines = [Roofline(Placed(model, card.form, split), card) for split in splits(model, cards, card.fabric.node)]
    return [found.reached if (found := within(line, ask)) else 0.0 for line in lines]


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
@pytest.mark.parametrize(("name", "cards"), [("nvidia-h100", 32), ("ascend-910b3", 64), ("moore-threads-s5000", 16)])
def test_the_answer_is_that_of_looking_at_all(name: str, cards: int, ask: Ask) -> None:
    card = machine(name, DEEPSEEK_V3)
    reached, found = every(V3, card, cards, ask), search(V3, card, cards, ask)
    assert found.splits == len(reached)
    assert (found.best.reached if found.best else 0.0) == max(reached)


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_no_split_exceeds_its_bound(ask: Ask) -> None:
    card = machine("ascend-910b3", DEEPSEEK_V3)
    for split in splits(V3, 64, card.fabric.node):
        line = Roofline(Placed(V3, card.form, split), card)
        found = within(line, ask)
        assert found is None or found.reached <= _bound(line, ask) * (1 + 1e-12)


def test_links_can_turn_the_answer() -> None:
    """With slow links the best by bound is not the best, so that more than one split is looked at, and not all."""
    link = Link("wire", 1e11, 1, "switched", 4, 1e10)
    fast = device(memory_bytes=10**11, memory_bandwidth=1e12, rates={"bfloat16": 1e15}, link=link)
    card = machine(fast, DEEPSEEK_V3)
    found = search(V3, card, 64, ASKS["as many as fit"])
    assert found.best is not None
    assert found.best.reached == max(every(V3, card, 64, ASKS["as many as fit"]))
    assert 1 < found.evaluated < found.splits


def test_five_devices_take_few_looks() -> None:
    """Of DeepSeek-V3 on 16 to 64 cards of each."""
    looked = [search(V3, machine(name, DEEPSEEK_V3), cards, ASKS["in time"]) for name in FIVE for cards in (16, 32, 64)]
    assert sum(one.splits for one in looked) > 250
    assert sum(one.evaluated for one in looked) < 100


def test_as_many_sequences_as_the_time_of_a_token_allows() -> None:
    card = machine("nvidia-h100", DEEPSEEK_V3)
    line = Roofline(Placed(V3, card.form, Split(1, 16, 2)), card)
    found = within(line, Ask(Work(4096, 4096), slo=0.02))
    assert found is not None
    assert found.limit == "time"
    assert found.sequences % 2 == 0, "whole micro-batches"
    more = replace(found, sequences=found.sequences + 2)
    assert found.seconds_per_token <= 0.02 < more.seconds_per_token
    assert within(line, Ask(Work(4096, 4096), slo=1e-4)) is None


def test_more_sequences_are_never_slower_in_all_and_never_faster_for_one() -> None:
    """What the bound rests on."""
    card = machine("ascend-910c", DEEPSEEK_V3)
    line = Roofline(Placed(V3, card.form, Split(2, 16, 2)), card)
    found = [within(line, Ask(Work(4096, 4096), batch=batch)) for batch in (32, 64, 100, 200, 400, 800)]
    assert all(found)
    reached, times = zip(*((one.reached, one.seconds_per_token) for one in found if one), strict=True)
    assert list(reached) == sorted(reached)
    assert list(times) == sorted(times)


def test_what_is_asked_for_is_not_cut_down() -> None:
    card = machine(device(), LLAMA)
    line = Roofline(Placed(demand(LLAMA), card.form, Split(1, 1, 1)), card)
    most = within(line, Ask(Work(4096, 128)))
    assert most is not None
    assert most.limit == "memory"
    assert within(line, Ask(Work(4096, 128), batch=most.whole)) is not None
    assert within(line, Ask(Work(4096, 128), batch=most.whole + 1)) is None


def test_multi_token_prediction_gains_less_than_it_accepts() -> None:
    """A step computes two tokens of each sequence and gains 1.7."""
    card = machine("nvidia-h100", DEEPSEEK_V3)
    line = Roofline(Placed(V3, card.form, Split(1, 32, 1)), card)
    plain, ahead = (within(line, Ask(Work(4096, 4096, accepted=n), batch=512)) for n in (1.0, 1.7))
    assert plain is not None
    assert ahead is not None
    assert plain.reached < ahead.reached < 1.7 * plain.reached
    assert ahead.seconds_per_token == pytest.approx(512 / ahead.reached)
