"""`porter verify --save-routes`: which experts the prompts hit, in a file that `porter plan` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Outcome, run

from porter.plan.routes import read_routes
from porter.verify.original import Original
from porter.verify.report import Check, Level, ParityReport

IDS = np.random.default_rng(4).integers(0, 113, (8, 17))


def save(checkpoint: Path, port: Path, file: Path, *more: object) -> Outcome:
    return run("verify", port, "--against", checkpoint, "--save-routes", file, "--json", *more)


@pytest.fixture(scope="module")
def recorded(deepseek: Path, deepseek_port: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Eight prompts of sixteen tokens, recorded; the file, and the document of the verdict."""
    folder = tmp_path_factory.mktemp("routes")
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"ids": row}) + "\n" for row in IDS.tolist()))
    more = ("--level", "dtype", "--prompts", prompts)
    document = save(deepseek, deepseek_port, folder / "routes.npz", *more).json()
    return folder / "routes.npz", document


def test_routes_are_those_that_the_original_chooses(recorded: tuple[Path, Any], deepseek: Path) -> None:
    file, _ = recorded
    routes = Original(deepseek, "float64").run(IDS[:, :-1])[0].routes
    with np.load(file, allow_pickle=False) as found:
        assert found["layers"].tolist() == sorted(routes) == [1, 2]
        for layer, chosen in zip(routes.values(), found["original"], strict=True):
            assert (np.sort(layer) == chosen).all()
        for side in ("original", "port"):
            assert found[side].shape == (2, 128, 4)
            for counts, chosen in zip(found[f"counts_{side}"], found[side], strict=True):
                assert counts.tolist() == [int((chosen == expert).sum()) for expert in range(12)]
        assert (found["port"] == found["original"]).mean() > 0.99  # a sound port in float32: but for near-ties
        assert found["prompt"].tolist() == [n for n in range(8) for _ in range(16)]
        assert (int(found["format"]), int(found["experts"])) == (1, 12)
        assert (str(found["model_type"]), str(found["prompts"])) == ("deepseek_v3", "file")


def test_the_verdict_tells_of_the_file_and_nothing_is_left_beside_it(recorded: tuple[Path, Any]) -> None:
    file, document = recorded
    assert document["notes"][-1] == f"routes of 128 tokens, 4 of 12 experts in 2 layers, are in {file}"
    assert sorted(path.name for path in file.parent.iterdir()) == ["prompts.jsonl", "routes.npz"]


def test_a_plan_reads_what_was_recorded(recorded: tuple[Path, Any]) -> None:
    routes = read_routes(recorded[0])
    assert (routes.tokens, routes.experts, routes.side, routes.prompts) == (128, 12, "port", "file")
    assert {layer: chosen.shape for layer, chosen in routes.layers.items()} == {1: (128, 4), 2: (128, 4)}


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("level", ["weights", "semantics"])
def test_levels_that_read_no_prompts_record_none(level: str, deepseek: Path, deepseek_port: Path) -> None:
    refusal = save(deepseek, deepseek_port, Path("routes.npz"), "--level", level).refusal()
    assert "at the dtype and distribution levels" in refusal


def test_a_dense_model_has_no_routes(llama: Path, llama_port: Path, tmp_path: Path) -> None:
    assert "no layer that is run has experts" in save(llama, llama_port, tmp_path / "routes.npz").refusal()


def test_a_slice_without_routers_has_none_either(deepseek: Path, deepseek_port: Path, tmp_path: Path) -> None:
    refusal = save(deepseek, deepseek_port, tmp_path / "routes.npz", "--layers", "0").refusal()
    assert "no layer that is run has experts" in refusal


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_run(
    deepseek: Path, deepseek_port: Path, tmp_path: Path
) -> None:
    assert "is no .npz" in save(deepseek, deepseek_port, tmp_path / "routes.json").refusal()
    assert "cannot be written" in save(deepseek, deepseek_port, tmp_path / "nowhere" / "routes.npz").refusal()
    assert f"lies in {deepseek_port}" in save(deepseek, deepseek_port, deepseek_port / "routes.npz").refusal()


def test_no_recorded_verdict_answers_in_its_place(
    deepseek: Path, deepseek_port: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the file is there from the time before."""
    monkeypatch.setenv("PORTER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "routes.npz").write_bytes(b"")
    asked: list[Path] = []

    def verify(port: Path, against: Path, **options: Any) -> ParityReport:
        asked.append(options["save_routes"])
        return ParityReport("a port", "a checkpoint", "device", "float32", (Level("dtype", (PASSED,)),), None, 1.0)

    monkeypatch.setattr("porter.verify.verify", verify)
    for _ in range(2):
        save(deepseek, deepseek_port, tmp_path / "routes.npz").json()
    assert asked == [tmp_path / "routes.npz"] * 2


PASSED = Check("a", 0, 0, "pass")
