"""`--executor ray` on a Ray of two workers: the same bytes, the same errors, the same way on after an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import ROOT, Outcome, digests, run, spawn

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
NAME = "port"

# Python runs this before anything else, and workers inherit where it lies. ACTION befalls a worker, and never the
# process that sends it, when it writes bytes of weights for the third time.
SITE = """
import os, signal, sys, time
from pathlib import Path

mark, pwrite, calls = Path(__file__).with_name("mark"), os.pwrite, []

def write(*given):
    calls.append(1)
    if len(calls) == 3:
        ACTION
    return pwrite(*given)

if any("default_worker" in word for word in sys.orig_argv):
    os.pwrite = write
"""
DIES = "os.kill(os.getpid(), signal.SIGKILL)"
DIES_ONCE = f"if not mark.exists(): mark.touch(); {DIES}"
DISK_FULL = "raise OSError(28, 'No space left on device')"
WAITS = "mark.touch(); [time.sleep(0.1) for _ in range(600)]"


def command(checkpoint: Path, output: Path, *more: object) -> list[object]:
    given = ["convert", checkpoint, "--target", "onnxruntime-cpu", "-o", output, "--shard-size", "100kB", "--json"]
    return [*given, *more]


@pytest.fixture(scope="module")
def expected(deepseek: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What this process alone writes."""
    folder = tmp_path_factory.mktemp("expected") / NAME
    assert len(run(*command(deepseek, folder)).json()["weights"]) > 3
    return digests(folder)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Ray of two workers that is there already."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def befalls(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """The settings under which something befalls the workers."""

    def settings(action: str) -> dict[str, str]:
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SITE.replace("ACTION", action))
        return {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', ROOT)}", "RAY_ADDRESS": ""}

    return settings


def on_ray(checkpoint: Path, output: Path, settings: dict[str, str]) -> Outcome:
    return spawn(*command(checkpoint, output, "--executor", "ray"), environment=settings)


# ------------------------------------------------------------------ the same bytes


@pytest.mark.parametrize("jobs", [[], ["--jobs", 1], ["--jobs", 4]])
def test_the_bytes_are_those_of_one_machine(
    jobs: list[object], deepseek: Path, expected: dict[str, str], address: str, tmp_path: Path
) -> None:
    done = run(*command(deepseek, tmp_path / NAME, "--executor", "ray", *jobs))
    assert (done.code, done.err) == (0, "")
    assert digests(tmp_path / NAME) == expected
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert run("verify", tmp_path / NAME, "--against", deepseek, "--level", "weights").code == 0


@pytest.mark.parametrize("form", [["--dtype", "float16"], ["--quantize", "int8"]])
def test_a_dense_model_in_another_form(form: list[object], llama: Path, address: str, tmp_path: Path) -> None:
    for name in ("local", "ray"):
        assert run(*command(llama, tmp_path / name, *form, "--executor", name)).code == 0
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")


def test_progress_is_told_up_to_the_end(deepseek: Path, address: str, tmp_path: Path) -> None:
    from porter.port import convert

    told: list[tuple[str, int, int]] = []
    result = convert(
        deepseek,
        "onnxruntime-cpu",
        tmp_path / NAME,
        shard_size="100kB",
        executor="ray",
        watch=lambda *given: told.append(given),
    )
    done = [given[1] for given in told if given[0] == "writing weights"]
    assert done == sorted(done)
    assert len(set(done)) > 1
    assert done[-1] > 0.8 * sum(weight["bytes"] for weight in result["weights"])


def test_a_cluster_that_is_there_is_joined(
    deepseek: Path, expected: dict[str, str], address: str, tmp_path: Path
) -> None:
    done = on_ray(deepseek, tmp_path / NAME, {"RAY_ADDRESS": address})
    assert (done.code, done.err) == (0, "")
    assert digests(tmp_path / NAME) == expected
    assert ray.cluster_resources()["CPU"] == 2, "it goes on without us"


@pytest.mark.parametrize("nowhere", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense", "127.0.0.1:99999"])
def test_a_cluster_that_does_not_answer(nowhere: str, deepseek: Path, tmp_path: Path) -> None:
    refusal = on_ray(deepseek, tmp_path / NAME, {"RAY_ADDRESS": nowhere}).refusal()
    assert f"there is no Ray at RAY_ADDRESS '{nowhere}'" in refusal
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ what befalls workers


def test_a_worker_that_dies_is_replaced(
    deepseek: Path, expected: dict[str, str], befalls: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    done = on_ray(deepseek, tmp_path / NAME, befalls(DIES_ONCE))
    assert (tmp_path / "site" / "mark").exists()
    assert (done.code, done.err) == (0, "")
    assert digests(tmp_path / NAME) == expected


def test_workers_that_die_again_and_again(
    deepseek: Path, expected: dict[str, str], befalls: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    """What they finished before is not lost; another executor may go on."""
    refusal = on_ray(deepseek, tmp_path / "ports" / NAME, befalls(DIES)).refusal()
    assert "a worker was lost while it wrote 'weights-0000" in refusal
    assert "the same command goes on" in refusal
    assert run(*command(deepseek, tmp_path / "ports" / NAME)).code == 0
    assert digests(tmp_path / "ports" / NAME) == expected


def test_a_full_disk_is_the_error_that_it_is_here(
    deepseek: Path, befalls: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    refusal = on_ray(deepseek, tmp_path / NAME, befalls(DISK_FULL)).refusal()
    assert "cannot be written: No space left on device" in refusal
    assert "make room or choose another folder" in refusal


def test_a_value_that_does_not_fit_is_the_error_that_it_is_here(llama: Path, address: str, tmp_path: Path) -> None:
    import shutil

    import tiny
    import torch

    source = Path(shutil.copytree(llama, tmp_path / "checkpoint"))
    tiny.edit_tensors(source, add={"model.norm.weight": torch.full((64,), 1e30)})
    here, there = (
        run(*command(source, tmp_path / "ports" / NAME, "--dtype", "float16", "--executor", name)).refusal()
        for name in ("local", "ray")
    )
    assert here == there
    assert not (tmp_path / "ports").exists()


def test_control_c_leaves_what_the_same_command_goes_on_with(
    deepseek: Path, expected: dict[str, str], befalls: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    given = [sys.executable, "-m", "porter", *map(str, command(deepseek, tmp_path / NAME, "--executor", "ray"))]
    settings = os.environ | befalls(WAITS)
    with subprocess.Popen(
        given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=settings, start_new_session=True
    ) as process:
        while not (tmp_path / "site" / "mark").exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(1)  # for the other worker, which finishes a piece or two
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err == "interrupted: the same command goes on where this one stopped\n"
    assert not (tmp_path / NAME).exists()
    assert run(*command(deepseek, tmp_path / NAME)).code == 0
    assert digests(tmp_path / NAME) == expected
