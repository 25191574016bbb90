"""A conversion cut short at any moment, by anything: the same command goes on and ends with the same bytes."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import ROOT, Outcome, digests, run, spawn
from safetensors.numpy import load_file, save_file

NAME = "port"

# Runs `porter` and kills its own process at the n-th operation on the file system, whichever it is.
AT_OPERATION = """
import os, signal, sys
from porter.cli import main

left = int(os.environ["OPERATIONS"])

def step(event="", arguments=()):
    global left
    if event in {"", "os.rename", "os.mkdir", "os.truncate", "os.remove", "os.rmdir", "fcntl.flock"}:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def before(function):
    def call(*given):
        step()
        return function(*given)
    return call

os.pwrite, os.fsync = before(os.pwrite), before(os.fsync)
sys.addaudithook(step)
main(sys.argv[1:])
"""

# Runs `porter`, says when the first bytes of weights are to be written, and waits there.
WAITING = """
import os, sys, time
from porter.cli import main

def wait(*given):
    print("begun", file=sys.stderr, flush=True)
    time.sleep(60)

os.pwrite = wait
main(sys.argv[1:])
"""


# Runs `porter` as if its user pressed Control-C at the n-th write.
INTERRUPTED = """
import os, signal, sys, time
from porter.cli import main

left, pwrite = int(os.environ["WRITES"]), os.pwrite

def write(*given):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)  # until the main thread has it
    return pwrite(*given)

os.pwrite = write
main(sys.argv[1:])
"""


def command(checkpoint: Path, output: Path) -> list[object]:
    return ["convert", checkpoint, "--target", "onnxruntime-cpu", "-o", output, "--json"]


def whole(checkpoint: Path, output: Path) -> dict[str, str]:
    """The digests of an uninterrupted run."""
    assert run(*command(checkpoint, output)).code == 0
    return digests(output)


def the_same_command_ends_well(checkpoint: Path, folder: Path, expected: dict[str, str]) -> None:
    """Killed when nothing but an empty folder was left to remove, the port is finished and the command says so."""
    outcome = run(*command(checkpoint, folder / NAME))
    assert outcome.code == 0 or "exists" in outcome.refusal()
    assert {f"{NAME}/{name}": digest for name, digest in expected.items()} == digests(folder)


# ------------------------------------------------------------------ killed


def killed_at(operation: int, checkpoint: Path, folder: Path) -> bool:
    """Whether it came that far."""
    settings = {"OPERATIONS": str(operation)}
    ended = spawn(*command(checkpoint, folder / NAME), environment=settings, program=AT_OPERATION)
    assert ended.code in {0, -signal.SIGKILL}, ended
    return ended.code != 0


@pytest.mark.parametrize("operation", [3, 8, 20, 41, -1])
def test_killed_at_an_operation(operation: int, llama: Path, llama_port: Path, tmp_path: Path) -> None:
    """The last is the removal of the folder that the port was made in."""
    assert killed_at(operation if operation > 0 else last_operation(llama, tmp_path / "count"), llama, tmp_path)
    the_same_command_ends_well(llama, tmp_path, digests(llama_port))


@pytest.mark.slow
def test_killed_at_every_operation(llama: Path, llama_port: Path, tmp_path: Path) -> None:
    for operation in range(1, last_operation(llama, tmp_path / "count") + 1):
        folder = tmp_path / str(operation)
        assert killed_at(operation, llama, folder)
        the_same_command_ends_well(llama, folder, digests(llama_port))
        shutil.rmtree(folder)


def last_operation(checkpoint: Path, folder: Path) -> int:
    """The number of the last operation, found by halving."""
    low, high = 1, 1024  # killed at the one, through at the other
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if killed_at(middle, checkpoint, folder) else (low, middle)
        shutil.rmtree(folder)
    return low


@pytest.fixture(scope="module")
def larger(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a gigabyte: the same checkpoint with a larger vocabulary."""
    import json

    folder = Path(shutil.copytree(llama, tmp_path_factory.mktemp("larger") / "checkpoint"))
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.shape[:1] == (config["vocab_size"],):
            chance = np.random.default_rng(len(name))
            tensors[name] = chance.standard_normal((800_000, *tensor.shape[1:]), np.float32)
    config["vocab_size"] = 800_000
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.slow
def test_killed_at_fifty_random_moments(larger: Path, tmp_path: Path) -> None:
    """Half of them fall anywhere, half behind the moment when the writing begins."""
    with started(larger, tmp_path / "whole") as process:
        begun = time.monotonic()
        assert process.wait() == 0
        seconds = time.monotonic() - begun
    expected = digests(tmp_path / "whole" / NAME)
    chance, found = random.Random(20260301), {"nothing": 0, "unfinished": 0, "whole": 0}
    for moment in range(50):
        folder = tmp_path / str(moment)
        with started(larger, folder) as process:
            while moment % 2 and state(folder) == "nothing":
                time.sleep(0.001)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, seconds if moment % 2 == 0 else seconds / 4))
            process.kill()
        found[state(folder)] += 1
        shutil.rmtree(folder / NAME, ignore_errors=state(folder) != "whole")
        the_same_command_ends_well(larger, folder, expected)
        shutil.rmtree(folder)
    print(found)
    assert found["unfinished"] >= 10, "the moments must fall into the writing, too"


def started(checkpoint: Path, folder: Path) -> subprocess.Popen[bytes]:
    given = [sys.executable, "-m", "porter", *map(str, command(checkpoint, folder / NAME))]
    return subprocess.Popen(given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)


def state(folder: Path) -> str:
    if (folder / NAME).exists():
        return "whole"
    return "unfinished" if folder.exists() and any(folder.iterdir()) else "nothing"


# ------------------------------------------------------------------ stopped by its user, or by a second run


@contextlib.contextmanager
def waiting(checkpoint: Path, output: Path) -> Iterator[subprocess.Popen[str]]:
    given = [sys.executable, "-c", WAITING, *map(str, command(checkpoint, output))]
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begun\n"
        try:
            yield process
        finally:
            process.kill()


def test_interrupted_by_its_user(llama: Path, llama_port: Path, tmp_path: Path) -> None:
    settings = {"WRITES": "12"}
    ended = spawn(*command(llama, tmp_path / NAME), environment=settings, program=INTERRUPTED)
    assert (ended.code, ended.out) == (130, "")
    assert ended.err == "interrupted: the same command goes on where this one stopped\n"
    assert state(tmp_path) == "unfinished"
    the_same_command_ends_well(llama, tmp_path, digests(llama_port))


def test_two_runs_at_once(llama: Path, llama_port: Path, tmp_path: Path) -> None:
    with waiting(llama, tmp_path / NAME):
        refusal = run(*command(llama, tmp_path / NAME)).refusal()
        assert "another porter is writing" in refusal
        assert "another porter is writing" in run(*command(llama, tmp_path / NAME), "--force").refusal()
    the_same_command_ends_well(llama, tmp_path, digests(llama_port))


def test_another_command_does_not_go_on(llama: Path, deepseek: Path, llama_port: Path, tmp_path: Path) -> None:
    """What is finished of one port must not become part of another."""
    assert killed_at(41, llama, tmp_path)
    before = digests(tmp_path)

    def refusal(checkpoint: Path, *more: str) -> str:
        return run(*command(checkpoint, tmp_path / NAME), *more).refusal()

    assert "has another dtype and graph" in refusal(llama, "--dtype", "float16")
    assert "has another checkpoint and graph" in refusal(deepseek)
    assert "has another target" in refusal(llama, "--target", "ascend-910b")
    assert "has another shard size and graph" in refusal(llama, "--shard-size", "100kB")
    assert "--force to begin anew" in refusal(deepseek)
    assert digests(tmp_path) == before
    the_same_command_ends_well(llama, tmp_path, digests(llama_port))


def test_a_checkpoint_that_changed_meanwhile_is_another(llama: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(llama, tmp_path / "checkpoint"))
    assert killed_at(41, checkpoint, tmp_path / "ports")
    os.utime(checkpoint / "model.safetensors", (1, 1))
    assert "has another checkpoint" in run(*command(checkpoint, tmp_path / "ports" / NAME)).refusal()
    assert run(*command(checkpoint, tmp_path / "ports" / NAME), "--force").code == 0


# ------------------------------------------------------------------ a full disk


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of some 40 MB, in memory or on a loop device."""
    folder, image = tmp_path / "disk", tmp_path / "image"
    folder.mkdir()
    if os.geteuid() != 0 or not _mount(request.param, image, folder):
        pytest.skip("a small file system takes a root user who may mount, and loop devices")
    yield folder
    subprocess.run(["umount", folder], check=True)


def _mount(kind: str, image: Path, folder: Path) -> bool:
    if kind == "tmpfs":
        return _runs("mount", "-t", "tmpfs", "tmpfs", "-o", "size=40m", folder)
    with image.open("xb") as file:
        file.truncate(44 * 2**20)
    return _runs("mkfs.ext4", "-q", "-m", "0", image) and _runs("mount", "-o", "loop", image, folder)


def _runs(*given: object) -> bool:
    found = shutil.which(str(given[0]))
    return found is not None and subprocess.run([*map(str, given)], capture_output=True, check=False).returncode == 0


def shrunk(checkpoint: Path, folder: Path) -> Path:
    """A checkpoint of some 60 MB."""
    import json

    folder = Path(shutil.copytree(checkpoint, folder))
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.shape[:1] == (config["vocab_size"],):
            tensors[name] = np.ones((100_000, *tensor.shape[1:]), np.float32)
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100_000}))
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_small_disk_is_foreseen(llama: Path, disk: Path, tmp_path: Path) -> None:
    checkpoint, before = shrunk(llama, tmp_path / "checkpoint"), list(disk.iterdir())
    refusal = run(*command(checkpoint, disk / NAME)).refusal()
    assert "the port needs" in refusal
    assert "make room" in refusal
    foreseen: Outcome = run(*command(checkpoint, disk / NAME), "--dry-run")
    assert foreseen.code == 2
    assert "does not fit" in foreseen.err
    told = foreseen.json()
    assert not told["fits"]
    assert told["free_bytes"] <= 40 * 2**20 < told["bytes"]
    assert list(disk.iterdir()) == before


def test_a_disk_that_others_fill_meanwhile(
    llama: Path, llama_port: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = disk / "others"
    size = sum(path.stat().st_size for path in llama_port.iterdir())
    others.write_bytes(bytes(shutil.disk_usage(disk).free - size * 2 // 3))
    with monkeypatch.context() as patch:
        patch.setattr("porter.package.folder.free_bytes", lambda output: 10**9)  # as it was when the work began
        refusal = run(*command(llama, disk / "to" / NAME)).refusal()
    assert "No space left on device" in refusal
    assert "run the same command again: it goes on where it stopped" in refusal
    assert state(disk / "to") == "unfinished"
    others.unlink()
    the_same_command_ends_well(llama, disk / "to", digests(llama_port))
