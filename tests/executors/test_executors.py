"""Who writes the files: found by name, before any work."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from command import run

from porter.executors import find_executor
from porter.executors.local import write_here


def test_this_machine_needs_nothing() -> None:
    assert find_executor("local") is write_here


def test_without_the_package_ray_is_refused_before_any_work(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else found(name))
    given = ["convert", llama, "--target", "onnxruntime-cpu", "-o", tmp_path / "ports" / "port"]
    refusal = run(*given, "--executor", "ray").refusal()
    assert "--executor ray needs the package ray" in refusal
    assert "pip install 'porter[ray]'" in refusal
    assert list(tmp_path.iterdir()) == []
