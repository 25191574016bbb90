"""Every family computes what transformers computes in graphs of fixed sizes, too, wherever these graphs go."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import takers
import tiny
import torch
from stories import Case, Told, rmse, tell
from test_parity import ALLOWED, TARGETS

from porter.families import families
from porter.port import convert

SHAPE = "batch=1,sequence=6,context=40"  # a prompt of 17 takes three pieces, the last of them filled up
CASES = [
    pytest.param(Case(family), target, id=f"{family}-{target[1]}", marks=takers.in_turn(n, m))
    for n, family in enumerate(families())
    for m, target in enumerate(takers.FIXED)
]
FORMS = [(Case(name, form="expanded"), TARGETS[0]) for name, family in families().items() if family.forms]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Told]:
    """What the original makes of a family's sample."""
    torch.set_num_threads(1)

    @lru_cache(maxsize=1)
    def make(family: str) -> Told:
        return tell(Case(family), tmp_path_factory.mktemp("checkpoint"))

    return make


@pytest.mark.parametrize(("case", "target"), [*CASES, *FORMS], ids=str)
def test_parity(case: Case, target: tuple[str, str], told: Callable[[str], Told], tmp_path: Path) -> None:
    original = told(case.family)
    result = convert(
        original.folder, target[0], tmp_path / "port", frontend=target[1], attention=case.form, shape=SHAPE
    )
    assert [graph["phase"] for graph in result["graphs"]] == ["prefill", "decode"]
    assert all(isinstance(size, int) for graph in result["graphs"] for v in graph["inputs"] for size in v["shape"])
    for name in ("prefill", "decode"):
        runner = tiny.FixedRunner(tmp_path / "port")
        calls = original.stories[name]
        logits = np.concatenate([runner.run(call.ids, call.positions[0])[0] for call in calls])
        places = np.concatenate([call.positions[0] for call in calls])
        caches = [np.moveaxis(entry[0], 0, 1)[places] for entry in runner.cache.values()]  # [tokens, heads, width]
        for got, exact, rounded in zip([logits, *caches], original.exact[name], original.rounded[name], strict=True):
            assert rmse(got, exact) <= ALLOWED * rmse(rounded, exact)
