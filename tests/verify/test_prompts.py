"""Prompts in the original's own words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from porter.verify.logits import log_softmax
from porter.verify.original import Original
from porter.verify.prompts import BATCH, LENGTH, _draw, read_prompts, write_prompts


def test_the_original_writes_what_it_finds_likely(original: Callable[..., Original]) -> None:
    exact = original("llama")
    found = write_prompts(exact, 64, 24)
    assert found.input_ids.shape == found.next_ids.shape == (24, LENGTH)
    assert (found.input_ids[:, 1:] == found.next_ids[:, :-1]).all()
    assert found.input_ids[:, found.written].shape == (24, LENGTH - found.opening + 1)
    np.testing.assert_allclose(found.logits[3:4], exact.run(found.input_ids[3:4])[0].logits, rtol=1e-9, atol=1e-9)
    surprise = -np.take_along_axis(log_softmax(found.logits), found.next_ids[..., None], axis=-1)[..., 0]
    likely = surprise[:, found.written]
    entropy = -(np.exp(log_softmax(found.logits)) * log_softmax(found.logits)).sum(-1)[:, found.written]
    assert likely.mean() == pytest.approx(entropy.mean(), abs=4 * likely.std() / likely.size**0.5)
    assert surprise[:, : found.opening - 1].mean() > likely.mean()


def test_the_same_count_gives_the_same_prompts_and_another_others(original: Callable[..., Original]) -> None:
    writer = original("qwen2")
    first, again, other = (write_prompts(writer, 64, count) for count in (9, 9, 10))
    assert (first.input_ids == again.input_ids).all()
    assert not (first.input_ids == other.input_ids[:9]).all()
    assert [len(first.input_ids[batch]) for batch in first.batches(writer)] == [BATCH, 9 - BATCH]


@pytest.mark.parametrize(("positions", "length", "opening"), [(1, 1, 1), (10, 10, 1), (20, 20, 2), (None, LENGTH, 4)])
def test_no_prompt_leaves_the_positions(
    positions: int | None, length: int, opening: int, original: Callable[..., Original]
) -> None:
    found = write_prompts(original("qwen2"), positions, 2)
    assert (found.input_ids.shape, found.opening) == ((2, length), opening)


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = np.log(np.tile([0.1, 0.0, 0.6, 0.3], (20000, 1)) + 1e-300)
    drawn = _draw(logits, np.random.default_rng(0))
    assert drawn.shape == (20000, 1)
    shares = np.bincount(drawn.ravel(), minlength=4) / len(drawn)
    np.testing.assert_allclose(shares, [0.1, 0, 0.6, 0.3], atol=0.015)


def test_what_is_written_already_is_read(original: Callable[..., Original]) -> None:
    exact = original("mixtral")
    ids = np.random.default_rng(0).integers(0, 97, (BATCH + 1, 13))
    found = read_prompts(exact, ids)
    assert (found.input_ids == ids[:, :-1]).all()
    assert (found.next_ids == ids[:, 1:]).all()
    assert found.written == slice(0, None)  # every token is followed by text
    trace = exact.run(ids[BATCH:, :-1])[0]
    np.testing.assert_allclose(found.logits[BATCH:], trace.logits, rtol=1e-9, atol=1e-9)
    assert found.routes.keys() == {0, 1}
    assert (np.sort(found.routes[1][BATCH]) == np.sort(trace.routes[1])).all()
