"""Every family computes what transformers computes, on each front end, in each way of being called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import takers
import tiny
import torch
from cases import all_cases
from stories import Case, Told, ask_port, rmse, tell

from porter.errors import FamilyError
from porter.families import families
from porter.port import convert
from porter.target import find_target

ALLOWED = 10.0  # times the float32 original's own error, as for porter verify: a sound port has about 1, a bug 10,000
HIDDEN = {"chunks": 1, "padded batch": 2}  # places that lie in the cache before the first call, behind the mask
TARGETS = takers.PAIRS


def trials() -> Iterator[Any]:
    """Each case with each front end. By default the samples meet some of them, other cases one, in turn."""
    samples = 0
    for n, case in enumerate(all_cases()):
        samples += case.name == "sample"
        for m, target in enumerate(TARGETS):
            one = () if not case.slow and n % len(TARGETS) == m else pytest.mark.slow
            marks = takers.in_turn(samples, m) if case.name == "sample" else one
            yield pytest.param(case, target, id=f"{case}-{target[1]}", marks=marks)


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Told]:
    """What the original makes of a case; the last is kept, since its front ends come one after the other."""
    torch.set_num_threads(1)  # in models this small, threads do nothing but wait for each other

    @lru_cache(maxsize=1)
    def make(case: Case) -> Told:
        return tell(case, tmp_path_factory.mktemp("checkpoint"))

    return make


@pytest.mark.parametrize(("case", "target"), list(trials()))
def test_parity(case: Case, target: tuple[str, str], told: Callable[[Case], Told], tmp_path: Path) -> None:
    original = told(case)
    result = convert(original.folder, target[0], tmp_path / "port", frontend=target[1], attention=case.form)
    runner = tiny.Runner(tmp_path / "port")
    for name, calls in original.stories.items():
        got = ask_port(runner, calls, max(result["minimum_past"], HIDDEN.get(name, 0)))
        for n, (port, exact, rounded) in enumerate(zip(got, original.exact[name], original.rounded[name], strict=True)):
            assert port.shape == exact.shape
            assert rmse(port, exact) <= ALLOWED * rmse(rounded, exact), f"{name}: {f'cache {n - 1}' if n else 'logits'}"


@pytest.mark.parametrize(
    ("family", "target"),
    [
        pytest.param(family, target, id=f"{family}-{target[1]}", marks=takers.in_turn(n, m, 1))
        for n, family in enumerate(families())
        for m, target in enumerate(TARGETS)
    ],
)
def test_other_dtypes(family: str, target: tuple[str, str], told: Callable[[Case], Told], tmp_path: Path) -> None:
    """They lower, and float16 runs: how well is for porter verify to say."""
    original = told(sample_of(family))
    for dtype in find_target(*target).dtypes():
        result = convert(original.folder, target[0], tmp_path / dtype, frontend=target[1], dtype=dtype)
        if dtype == "float16":
            got = ask_port(tiny.Runner(tmp_path / dtype), original.stories["decode"], result["minimum_past"])[0]
            exact = original.exact["decode"][0]
            assert rmse(got, exact) < 0.02 * exact.std()


@lru_cache
def sample_of(family: str) -> Case:
    return Case(family)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.bool])
def test_whole_numbers_are_no_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    folder, name = (
        tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample("llama")),
        "model.layers.0.mlp.up_proj.weight",
    )
    weight = tiny.load_file(folder / "model.safetensors")[name]
    tiny.edit_tensors(folder, add={name: weight.to(dtype)})
    with pytest.raises(FamilyError, match=f"tensor '{name}' is .*, which is no weight as it stands"):
        convert(folder, "onnxruntime-cpu", tmp_path / "port")


def test_config_of_a_giant(tmp_path: Path) -> None:
    """A config.json that asks for ten million experts is refused before they are counted."""
    folder = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample("deepseek_v3"))
    (folder / "config.json").write_text(
        tiny.json.dumps(tiny.sample("deepseek_v3", num_hidden_layers=4096, n_routed_experts=4096))
    )
    with pytest.raises(FamilyError, match="the checkpoint lacks tensors"):
        convert(folder, "onnxruntime-cpu", tmp_path / "port")
