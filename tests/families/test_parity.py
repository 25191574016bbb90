"""Every family computes what transformers computes, on each front end, in each way of being called."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import tiny
import torch
from cases import all_cases
from stories import Case, Told, ask_port, rmse, tell

from porter.port import convert

TARGETS = ("onnxruntime-cpu", "ascend-910b", "moore-threads-s4000")
ALLOWED = 10.0  # times the float32 original's own error, as for porter verify: a sound port has about 1, a bug 10,000


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Told]:
    """What the original makes of a case; the last is kept, since its front ends come one after the other."""
    torch.set_num_threads(1)

    @lru_cache(maxsize=1)
    def make(case: Case) -> Told:
        return tell(case, tmp_path_factory.mktemp("checkpoint"))

    return make


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_parity(case: Case, target: str, told: Callable[[Case], Told], tmp_path: Path) -> None:
    original = told(case)
    result = convert(original.folder, target, tmp_path / "port", attention=case.form)
    runner, places = tiny.Runner(tmp_path / "port"), result["minimum_past"]
    for name, calls in original.stories.items():
        got = ask_port(runner, calls, places)
        for n, (port, exact, rounded) in enumerate(zip(got, original.exact[name], original.rounded[name], strict=True)):
            assert port.shape == exact.shape
            assert rmse(port, exact) <= ALLOWED * rmse(rounded, exact), f"{name}: {f'cache {n - 1}' if n else 'logits'}"
