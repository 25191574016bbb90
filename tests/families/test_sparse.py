"""Sparse attention: that the choice of keys is the original's, no key more and none less, shows in the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from command import run
from stories import Case, ask_port, rmse, tell

from porter.families import families
from porter.port import convert

SPARSE = [name for name, family in families().items() if hasattr(family.config, "index_topk")]
CLEAR = 1000.0  # times the float32 original's own error


@pytest.mark.parametrize("family", SPARSE)
@pytest.mark.parametrize("change", [{"index_topk": 6}, {"index_topk": 8}, {"index_topk": 500}], ids=str)
def test_another_choice_of_keys_is_another_model(family: str, change: dict[str, Any], tmp_path: Path) -> None:
    told = tell(Case(family), tmp_path / "checkpoint")
    (told.folder / "config.json").write_text(tiny.json.dumps(tiny.sample(family, **change)))
    convert(told.folder, "onnxruntime-cpu", tmp_path / "port")
    got = ask_port(tiny.Runner(tmp_path / "port"), told.stories["prefill"], 0)[0]
    exact, own = told.exact["prefill"][0], told.rounded["prefill"][0]
    assert rmse(got, exact) > CLEAR * rmse(own, exact)


def test_what_layers_hand_on_besides_cannot_be_read_in_parts(tmp_path: Path) -> None:
    """A choice of keys that several layers share."""
    folder = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample("glm_moe_dsa"))
    convert(folder, "onnxruntime-cpu", tmp_path / "port")
    found = run("verify", tmp_path / "port", "--against", folder, "--level", "semantics", "--layers", "0")
    assert found.code == 2
    assert "is handed more than hidden states by the layer before it" in found.err
