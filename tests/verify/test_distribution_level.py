"""The distribution over the next token: what a sound port loses by its dtype, and others by their mistakes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from command import run
from measured import checks, disturb_weights, report, write
from surgery import graph_of, rewire

from porter.verify.prompts import LENGTH

JUDGED = {"KL mean", "KL median", "KL 90 %", "KL 99 %", "KL 99.9 %"}
JUDGED |= {"probability change", "perplexity change", "first choice changed"}
DRIFT = {f"drift: {quantity}" for quantity in ("KL", "KL slope", "logits", "cache")}
DRIFT |= {f"RoPE at 256: {quantity}" for quantity in ("KL", "logits", "cache")}
NUMBER = r"(\d[\d.e-]*|inf)"
WORST = rf"worst at (groups of )?layer \d+, prompt \d+, token \d+: \d+ for \d+, {NUMBER} apart; "
WORST += rf"the original rounds by up to {NUMBER}"
CHOICE, ROUTE = "mlp.gate.Route.TopK_2.0", "mlp.gate.Route."


@pytest.fixture(scope="module", params=[("llama", "bfloat16"), ("deepseek_v3", "float16")], ids=str)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A family, its checkpoint and a sound port: copy it before you harm it."""
    family, dtype = request.param
    return family, *write(tmp_path_factory.mktemp(family), family, dtype)


def test_a_sound_port_passes_and_its_cost_is_told(sound: tuple[str, Path, Path]) -> None:
    family, checkpoint, port = sound
    found = checks(report(port, checkpoint, "distribution"))
    judged = {name: check for name, check in found.items() if check["status"] != "measured"}
    routed = family == "deepseek_v3"
    assert set(judged) == JUDGED | DRIFT | ({"routes changed, lead over noise"} if routed else set())
    assert {check["status"] for check in judged.values()} == {"pass"}
    told = [
        found["cost: KL mean"],
        found["cost: perplexity ratio"],
        *([found["cost: routes changed"]] if routed else []),
    ]
    assert [(check["limit"], check["interval"]) for check in told] == [(None, None)] * len(told)
    assert told[1]["value"] == pytest.approx(1, abs=0.02)
    assert found["cost: top-1 agreement"]["value"] == pytest.approx(1 - found["cost: first choice changed"]["value"])
    assert found["cost: perplexity"]["port"] > 1
    assert 0 < found["KL mean"]["port_standard_error"] < 0.5 * found["KL mean"]["port"]
    assert 1e-7 < found["KL mean"]["port"] <= found["KL 99 %"]["port"] < 0.1


def test_in_float32_nothing_is_lost(deepseek: Path, deepseek_port: Path) -> None:
    found = checks(report(deepseek_port, deepseek, "distribution"))
    assert {check["status"] for check in found.values()} == {"pass", "measured"}
    assert found["cost: KL mean"]["value"] < 1e-9
    assert found["first choice changed"]["port"] == 0


def test_weights_that_are_one_percent_off_fail(sound: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, checkpoint, port = sound
    copy = Path(shutil.copytree(port, tmp_path / "port"))
    disturb_weights(copy, 0.01)
    document = report(copy, checkpoint, "distribution")
    found = checks(document)
    assert document["status"] == "fail"
    assert {found[name]["status"] for name in ("KL mean", "KL median", "probability change")} == {"fail"}
    assert found["KL mean"]["value"] > 2 * found["KL mean"]["limit"]
    assert found["cost: KL mean"]["value"] > 4 * found["cost: KL mean"]["original"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_routers_without_their_group_limit_fail(dtype: str, tmp_path: Path) -> None:
    """What follows a wrong route agrees with an original that is led along it: the choice itself is what is wrong."""
    checkpoint, port = write(tmp_path, "deepseek_v3", dtype)
    with graph_of(port) as graph:
        rewire(graph, CHOICE, ROUTE + "Reshape_1", ROUTE + "Add")
    found = checks(report(port, checkpoint, "distribution"))
    routes = found["routes changed, lead over noise"]
    assert routes["status"] == "fail"
    assert float(routes["value"]) > 5 * routes["limit"]
    assert re.fullmatch(WORST, routes["detail"]), routes["detail"]
    assert found["cost: routes changed"]["port"] > 5 * found["cost: routes changed"]["original"]


def test_the_verdict_in_words(sound: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, checkpoint, port = sound
    copy = Path(shutil.copytree(port, tmp_path / "port"))
    disturb_weights(copy, 0.01)
    for folder, word in ((port, "parity holds at distribution"), (copy, "parity FAILS at distribution")):
        found = run("verify", folder, "--against", checkpoint, "--level", "distribution")
        assert word in found.out
        assert "KL median" in found.out
        assert "told, not judged" in found.out
        assert "±" in found.out
        assert ("fail distribution: KL mean = " in found.out) == (folder == copy)


def test_what_routers_did_is_told(sound: tuple[str, Path, Path]) -> None:
    family, checkpoint, port = sound
    document = report(port, checkpoint, "distribution")
    found, experts = checks(document), document["figures"]["experts"]
    told = {"cost: routes changed", "cost: tokens rerouted", "cost: expert load, largest difference"}
    if family == "llama":
        assert (experts, told & set(found)) == ([], set())
        return
    assert told <= set(found)
    assert [entry["layer"] for entry in experts] == [1, 2]
    for entry in experts:
        assert sum(entry["port"]) == sum(entry["original"]) == document["prompts"]["count"] * LENGTH * 4
    pairs = [(a, b) for entry in experts for a, b in zip(entry["port"], entry["original"], strict=True)]
    largest = max(abs(a - b) for a, b in pairs) / sum(experts[0]["port"])
    assert found["cost: expert load, largest difference"]["value"] == pytest.approx(largest)
    assert found["cost: routes changed"]["detail"].startswith("of port and original, layer 1: ")
