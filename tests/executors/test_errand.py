"""What a worker is told to write, and how it finds out that it is in the wrong place."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import digests

from porter.errors import PorterError, PortError
from porter.executors.errand import TOKEN, Errand, errands, run_errand
from porter.executors.local import write_here
from porter.order import Order, work_out

SMALL = 100_000  # bytes of a file, so that there are several


@pytest.fixture
def checkpoint(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "checkpoint"))


@pytest.fixture
def sent(checkpoint: Path, tmp_path: Path) -> list[Errand]:
    folder = tmp_path / "unfinished" / "port"
    folder.mkdir(parents=True)
    return errands(work_out(Order(checkpoint, "onnxruntime-cpu", shard_size=SMALL)), folder, 2)


def test_what_workers_write_is_what_one_process_writes(sent: list[Errand], checkpoint: Path, tmp_path: Path) -> None:
    here = tmp_path / "here" / "port"
    here.mkdir(parents=True)
    work = work_out(Order(checkpoint, "onnxruntime-cpu", shard_size=SMALL))
    expected = write_here(work, here, 1, lambda done: None)
    assert len(expected) > 2
    assert [run_errand(errand) for errand in reversed(sent)] == expected[::-1]
    assert digests(sent[0].folder) == digests(here)


def test_an_errand_travels(sent: list[Errand]) -> None:
    assert pickle.loads(pickle.dumps(sent)) == sent
    assert all(path.is_absolute() for path in (sent[0].folder, sent[0].order.checkpoint))


def test_an_error_travels() -> None:
    """Ray sends what a worker raised the same way."""
    back = pickle.loads(pickle.dumps(PortError("what is wrong", "the way out")))
    assert isinstance(back, PortError)
    assert (back.message, back.hint) == ("what is wrong", "the way out")


def another_run(errand: Errand) -> Errand:
    return replace(errand, token="another")


def not_there(errand: Errand) -> Errand:
    return replace(errand, folder=errand.folder / "elsewhere" / "port")


def no_checkpoint(errand: Errand) -> Errand:
    return replace(errand, order=replace(errand.order, checkpoint=errand.order.checkpoint / "elsewhere"))


def another_porter(errand: Errand) -> Errand:
    return replace(errand, agreement={**errand.agreement, "porter": "0.0.1"})


def another_time(errand: Errand) -> Errand:
    os.utime(errand.order.checkpoint / "model.safetensors", (1, 1))
    return errand


def another_config(errand: Errand) -> Errand:
    path = errand.order.checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 0.5}))
    return errand


def another_plan(errand: Errand) -> Errand:
    return replace(errand, order=replace(errand.order, shard_size=2 * SMALL))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (another_run, "does not see '"),
        (not_there, "does not see '"),
        (no_checkpoint, "checkpoint/elsewhere'"),
        (another_porter, "has another porter"),
        (another_time, "has another checkpoint"),
        (another_config, "has another checkpoint"),
        (another_plan, "has another plan"),
    ],
)
def test_a_worker_that_sees_something_else_writes_nothing(
    change: Callable[[Errand], Errand], says: str, sent: list[Errand]
) -> None:
    with pytest.raises(PorterError) as found:
        run_errand(change(sent[0]))
    assert says in found.value.message
    assert "under the same paths" in found.value.hint
    assert list(sent[0].folder.iterdir()) == []
    assert [path.name for path in sent[0].folder.parent.iterdir() if path.is_file()] == [TOKEN]


def test_the_order_is_worked_out_once_in_a_run(sent: list[Errand], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Order] = []

    def counted(order: Order) -> Any:
        calls.append(order)
        return work_out(order)

    monkeypatch.setattr("porter.executors.errand.work_out", counted)
    for errand in sent:
        run_errand(errand)
    assert len(calls) == 1
