"""Puts tests/ on the path, so that any test may `import tiny`; and two tiny checkpoints with a sound port of each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["PORTER_CACHE"] = os.devnull  # below which nothing can be written: no test is answered from a record


@pytest.fixture(scope="session")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DeepSeek-V3 in small: 3 layers, 12 experts in 4 groups, YaRN with mscale = mscale_all_dim, epsilon 1e-6."""
    return _checkpoint(tmp_path_factory.mktemp("checkpoints") / "deepseek", "deepseek_v3")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model: 3 layers, grouped queries, llama3 positions."""
    return _checkpoint(tmp_path_factory.mktemp("checkpoints") / "llama", "llama")


@pytest.fixture(scope="session")
def deepseek_port(deepseek: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound port of `deepseek` in float32: copy it before you harm it."""
    return _port(deepseek, tmp_path_factory.mktemp("ports") / "deepseek")


@pytest.fixture(scope="session")
def llama_port(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound port of `llama` in float32: copy it before you harm it."""
    return _port(llama, tmp_path_factory.mktemp("ports") / "llama")


def _checkpoint(folder: Path, family: str) -> Path:
    import tiny  # here, because torch takes seconds that many tests need not wait for

    return tiny.write_sample(folder, family)


def _port(checkpoint: Path, folder: Path) -> Path:
    from porter.port import convert

    convert(checkpoint, "onnxruntime-cpu", folder)
    return folder
