"""What each level finds of the mistakes that ports are made with; docs/verification.md has the table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
from command import run
from faults import LEVELS, PLANTED, Fault, table

from porter.port import convert

PAGE = Path(__file__).parent.parent.parent / "docs" / "verification.md"
TARGET = {"float32": "onnxruntime-cpu", "float16": "moore-threads-s4000", "bfloat16": "moore-threads-s4000"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint of a family's sample, written once."""
    return cache(lambda family: tiny.write_sample(tmp_path_factory.mktemp("models") / family, family))


def with_config(checkpoint: Path, folder: Path, change: dict[str, Any]) -> Path:
    """The checkpoint with another config: what the port is made from by mistake."""
    other = Path(shutil.copytree(checkpoint, folder))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | change))
    return other


def verdict(fault: Fault, dtype: str, checkpoint: Path, folder: Path) -> dict[str, Any]:
    source = with_config(checkpoint, folder / "other", fault.config) if fault.config else checkpoint
    convert(source, TARGET[dtype], folder / "port", dtype=dtype)
    fault.plant(folder / "port")
    outcome = run("verify", folder / "port", "--against", checkpoint, "--tokens", 4, "--json")
    found = outcome.json()
    assert outcome.code == (0 if found["passed"] else 1)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "narrow"])
@pytest.mark.parametrize("name", PLANTED)
def test_the_levels_find(name: str, narrow: bool, model: Callable[[str], Path], tmp_path: Path) -> None:
    fault = PLANTED[name]
    dtype, levels = (fault.narrow, fault.thin) if narrow else ("float32", fault.wide)
    found = verdict(fault, dtype, model(fault.model), tmp_path)
    status = {level["name"]: level["status"] for level in found["levels"]}
    assert [level for level in LEVELS if level in levels and status[level] != "fail"] == []
    assert (status["weights"] == "fail") == (fault.weight is not None)
    if fault.weight:
        accused = [check["detail"] for check in found["levels"][0]["checks"] if check["status"] == "fail"]
        assert any(fault.weight in detail for detail in accused)


def test_the_page_says_so() -> None:
    assert table() in PAGE.read_text()
    assert len(PLANTED) >= 20
    assert all(fault.wide or fault.thin for fault in PLANTED.values())
