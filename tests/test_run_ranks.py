"""A split port on real processes: torchrun starts them, torch.distributed moves what they exchange."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from command import ROOT, Outcome, run

from porter.manifest import open_port
from porter.model import understand
from porter.port import convert
from porter.verify.launched import LOCK, is_left
from porter.verify.runs import PortTrace, open_run
from porter.verify.stages import whole

SIZES: dict[str, dict[str, Any]] = {
    "llama": {"num_attention_heads": 4, "hidden_size": 64, "vocab_size": 104},
    "mixtral": {"num_local_experts": 4, "vocab_size": 96},
}
IDS = [3, 14, 15, 92, 65]


def made(family: str, folder: Path, **layout: int) -> tuple[Path, Path]:
    """A checkpoint, and its port for several cards."""
    checkpoint = tiny.write_checkpoint(folder / "checkpoint", tiny.sample(family, **SIZES[family]))
    convert(checkpoint, "onnxruntime-cpu", folder / "port", **layout)
    return checkpoint, folder / "port"


def torchrun(processes: int, *arguments: object) -> Outcome:
    """`porter.run_ranks` with these arguments in so many processes."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *start, "-m", "porter.run_ranks", *map(str, arguments)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    return Outcome(done.returncode, done.stdout, done.stderr)


def greedy(port: Path, steps: int) -> list[int]:
    """What a port for one card goes on with."""
    runner, ids, tokens = tiny.Runner(port), np.array([IDS]), list[int]()
    cache, start = runner.empty(1, 0), 0
    while len(tokens) < steps:
        positions = np.arange(start, start + ids.shape[1])[None]
        start += ids.shape[1]
        logits, cache = runner.run(ids, positions, np.ones((1, start), np.int64), cache)
        tokens.append(int(logits[0, -1].argmax()))
        ids = np.array([tokens[-1:]])
    return tokens


def test_four_processes_go_on_as_one_card_does(tmp_path: Path) -> None:
    """Two stages of two cards; what they give one another is what porter.json tells."""
    checkpoint, port = made("llama", tmp_path, tp=2, pp=2)
    convert(checkpoint, "onnxruntime-cpu", tmp_path / "one")
    done = torchrun(4, port, "--ids", ",".join(map(str, IDS)), "--tokens", 3)
    assert done.code == 0, done.err
    result = done.json()
    assert result["tokens"] == greedy(tmp_path / "one", 3)
    assert result["computed_tokens"] == len(IDS) + 2
    told = json.loads((port / "porter.json").read_text())["split"]["exchanges"]
    assert [e["bytes"] for e in result["exchanges"]] == [
        2 * e["bytes_per_token"] * (len(IDS) + 2)
        for e in told  # two cards give, of each stage
    ]
    assert all(e["bytes"] == e["told_bytes"] for e in result["exchanges"])


def test_two_processes_compute_what_one_computes_in_turn(tmp_path: Path) -> None:
    """Prefill and a token behind it, logits, layers, routes and the cache; to the last bit, for a sum of two is one."""
    checkpoint, folder = made("mixtral", tmp_path, ep=2)
    port, model = open_port(folder), understand(checkpoint)
    ids = np.array([IDS])
    places, ones = np.arange(len(IDS))[None], np.ones_like(ids)
    sides = [open_run(side, model, whole(2), forced=False) for side in (port, replace(port, launched=True))]
    (here, past), (there, far) = (run.run(ids, places, ones) for run in sides)
    compare(here, there)
    step = (np.array([[7]]), np.array([[len(IDS)]]), np.ones((1, 1), np.int64))
    compare(sides[0].run(*step, past)[0], sides[1].run(*step, far)[0])


def compare(one: PortTrace, other: PortTrace) -> None:
    np.testing.assert_array_equal(one.logits, other.logits)
    for kind in ("layers", "router_logits", "routes", "cache"):
        mine, theirs = getattr(one, kind), getattr(other, kind)
        assert len(mine) > 0
        assert [*mine] == [*theirs]
        for key, values in mine.items():
            np.testing.assert_array_equal(values, theirs[key])


@pytest.mark.slow
def test_narrow_numbers_travel_narrow(tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample("llama", **SIZES["llama"]))
    convert(checkpoint, "ascend-910b3", tmp_path / "port", tp=2, pp=2, dtype="bfloat16")  # by gloo here
    done = torchrun(4, tmp_path / "port", "--ids", "1,2,3", "--tokens", 2)
    assert done.code == 0, done.err
    exchanges = done.json()["exchanges"]
    assert all(e["bytes"] == e["told_bytes"] for e in exchanges)
    assert exchanges[0]["bytes_per_token"] == 2 * SIZES["llama"]["hidden_size"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "layout", "processes"),
    [("mixtral", {"ep": 2}, 2), ("mixtral", {"tp": 2, "ep": 2}, 4), ("llama", {"tp": 4}, 4)],
)
def test_verify_with_a_process_for_each_card(
    family: str, layout: dict[str, int], processes: int, tmp_path: Path
) -> None:
    checkpoint, port = made(family, tmp_path, **layout)
    words = ("--against", checkpoint, "--level", "all", "--tokens", 2, "--launch", processes, "--json")
    done = run("verify", port, *words)
    failed = [c for level in done.json()["levels"] for c in level["checks"] if c["status"] == "fail"]
    assert (done.code in (0, 3), failed) == (True, [])


def test_ranks_know_when_nobody_calls_any_more(tmp_path: Path) -> None:
    """The system lets go of a lock however its process ended."""
    with (tmp_path / LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not is_left(tmp_path)
    assert is_left(tmp_path)


@pytest.mark.slow
def test_a_rank_that_ends_is_a_finding(tmp_path: Path) -> None:
    """It lacks what an exchange would give it: the others do not wait for it, and neither does verify."""
    checkpoint, port = made("llama", tmp_path, tp=2)
    document = json.loads((port / "porter.json").read_text())
    del document["split"]["exchanges"][1]
    (port / "porter.json").write_text(json.dumps(document))
    words = ("--against", checkpoint, "--level", "semantics", "--tokens", 2, "--launch", 2, "--json")
    done = run("verify", port, *words)
    (check,) = done.json()["levels"][0]["checks"][-1:]
    assert (done.code, check["name"]) == (1, "calls that the port fails")
    assert "a rank ended" in check["detail"]


@pytest.mark.parametrize(
    ("processes", "arguments", "says"),
    [
        pytest.param(1, ["--ids", "1"], "the port is for 2 cards, and there are 1 processes", marks=pytest.mark.slow),
        pytest.param(2, ["--ids", "one"], "--ids 'one' is no list of token ids", marks=pytest.mark.slow),
        (2, ["--ids", "1", "--backend", "mccl"], "torch.distributed has no backend 'mccl'"),
    ],
)
def test_what_cannot_be_run_is_refused_in_two_lines(
    processes: int, arguments: list[str], says: str, tmp_path: Path
) -> None:
    _, port = made("llama", tmp_path, tp=2)
    done = torchrun(processes, port, *arguments)
    assert done.code != 0
    assert (says in done.err, "Traceback" in done.err.split("torch/distributed")[0]) == (True, False)
