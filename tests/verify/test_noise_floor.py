"""The original in other ways than its own: what it gives, and what limits become by it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from porter.verify.benchmark import Benchmark, Errors, Values
from porter.verify.dtype import check_dtype
from porter.verify.elementwise import RULES
from porter.verify.original import Original
from porter.verify.variants import VARIANTS

RULE = RULES["bfloat16"]


def test_variants_give_the_original_but_for_its_rounding(steady: str, original: Callable[..., Original]) -> None:
    exact, own = original(steady), original(steady, "bfloat16")
    ids = np.random.default_rng(0).integers(0, 97, (3, 12))
    before = own.run(ids)[0]
    for name, run in VARIANTS.items():
        trace = run(own, ids)
        true = exact.run(ids, routes=trace.routes)[0]
        for mine, theirs in zip(
            (trace.logits, *trace.layers.values()), (true.logits, *true.layers.values()), strict=True
        ):
            assert mine.shape == theirs.shape
            assert np.abs(mine - theirs).max() < 0.1 * np.abs(theirs).max(), name
        assert trace.cache.keys() == before.cache.keys()
        assert {n: v.shape for n, v in trace.router_logits.items()} == {
            n: v.shape for n, v in before.router_logits.items()
        }
        for layer, (keys, values) in trace.cache.items():
            assert (keys.shape, values.shape) == tuple(entry.shape for entry in before.cache[layer])
    np.testing.assert_array_equal(own.run(ids)[0].logits, before.logits)  # which is itself again


def test_another_attention_rounds_otherwise(original: Callable[..., Original]) -> None:
    own = original("llama", "bfloat16")
    ids = np.random.default_rng(0).integers(0, 97, (2, 12))
    assert (VARIANTS["sdpa attention"](own, ids).logits != own.run(ids)[0].logits).any()


def test_other_threads_are_other_threads(original: Callable[..., Original], monkeypatch: pytest.MonkeyPatch) -> None:
    own, seen = original("llama", "bfloat16"), []
    run = own.run
    monkeypatch.setattr(own, "run", lambda ids: (seen.append(own.threads), run(ids))[1])
    VARIANTS["other threads"](own, np.array([[1, 2]]))
    own.run(np.array([[1, 2]]))
    assert seen == [2, 1]


def values(factor: float) -> tuple[Values, Values]:
    """What is off by this much at the places of a quantity, of 40 prompts, and what is exact."""
    generator = np.random.default_rng(5)
    exact = {("logits", ""): generator.standard_normal((40, 50)), ("layers", "1"): generator.standard_normal((40, 50))}
    noise = np.random.default_rng(7)
    return {key: true + factor * noise.standard_normal(true.shape) for key, true in exact.items()}, exact


def errors(port: float, own: float) -> Errors:
    mine, exact = values(port)
    found = Errors(RULE)
    found.add(mine, exact, values(own)[0], exact)
    return found


@pytest.mark.parametrize(
    ("variant", "limits", "status"),
    [(0.7, (1.2, 1.5), "fail"), (1.0, (1.2, 1.5), "fail"), (1.9, (1.9, 1.9), "pass")],
)
def test_no_limit_is_tighter_than_the_floor(variant: float, limits: tuple[float, float], status: str) -> None:
    found = Benchmark(RULE)
    found.errors = errors(0.018, 0.01)
    found.variants = {"sdpa attention": errors(0.01 * variant, 0.01)}
    checks = {check.name: check for check in check_dtype(found, "bfloat16").checks}
    for name, limit in zip(("logits", "layers"), limits, strict=True):
        assert (checks[name].limit, checks[name].status) == (pytest.approx(limit, rel=1e-3), status)
    told = checks["noise floor: sdpa attention"]
    assert (told.value, told.limit, told.status) == (pytest.approx(variant, rel=1e-3), None, "measured")


def test_a_variant_that_overflows_is_no_floor() -> None:
    found = Benchmark(RULE)
    found.errors = errors(0.01, 0.01)
    found.variants = {"sdpa attention": errors(np.inf, 0.01)}
    checks = {check.name: check for check in check_dtype(found, "bfloat16").checks}
    assert (checks["logits"].limit, checks["logits"].status) == (1.2, "pass")


def test_few_small_numbers_are_told_and_not_judged() -> None:
    for width, status in ((1, "measured"), (60, "pass")):
        found, exact = Benchmark(RULE), np.random.default_rng(0).standard_normal((40, 1000))
        exact[:, :width] = 0.001
        own = np.random.default_rng(1).standard_normal(exact.shape) * 0.01
        found.errors.add(
            {("logits", ""): exact - own},
            {("logits", ""): exact},
            {("logits", ""): exact + own},
            {("logits", ""): exact},
        )
        small = {check.name: check for check in check_dtype(found, "bfloat16").checks}["logits, small numbers"]
        assert small.status == status
        assert ("told, not judged" in small.detail) == (status == "measured")
