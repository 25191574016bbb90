"""Makes the environments of the vendors' toolchains under build/toolchains: setup.py [NAME …].

An environment that is finished has a stamp with the digest of what it was made from, and is left as it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "toolchains"


def as_installed(site: Path) -> None:
    """Nothing to mend."""


def mended_tpu_mlir(site: Path) -> None:
    """It brings a glibc older than the machine's, which then meets the machine's other libraries; and it imports torch
    and onnxruntime-extensions, which only graphs with its own operators need.
    """
    for name in ("libc.so.6", "libm.so.6", "libpthread.so.0"):
        (site / "tpu_mlir" / "lib" / "third_party" / name).unlink()
    for path in (HERE / "stand_ins").glob("*.py"):
        shutil.copy(path, site)


@dataclass(frozen=True)
class Toolchain:
    """Its requirements are NAME.txt, every one pinned and installed without what it asks for itself: it asks for more,
    or for what no longer fits. `whole` are those that bring their own; they differ from one machine to another.
    """

    python: str
    check: str  # a program that ends well where the environment is sound
    mend: Callable[[Path], None] = as_installed
    whole: tuple[str, ...] = ()


TOOLCHAINS = {
    "tpu-mlir": Toolchain("3.10", "import onnxsim, tpu_mlir, pymlir", mended_tpu_mlir),
    "nncase": Toolchain("3.11", "import _nncase, onnx"),
    "rknn-toolkit2": Toolchain("3.11", "from rknn.api import RKNN", whole=("torch",)),  # of CUDA, where PyPI serves it
    "ascendnpu-ir": Toolchain("3.11", "import ascendnpuir, onnx"),
}


class SetupError(Exception):
    """What is missing and the way out."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(f"error: {problem}\nhint: {hint}")


def main(names: list[str]) -> int:
    try:
        for name in names or TOOLCHAINS:
            if name not in TOOLCHAINS:
                raise SetupError(f"no toolchain named {name!r}", f"one of {', '.join(TOOLCHAINS)}")
            make(name, TOOLCHAINS[name])
    except SetupError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def make(name: str, toolchain: Toolchain) -> None:
    folder, stamp = BUILD / name, BUILD / name / "stamp"
    digest = digest_of(HERE / f"{name}.txt", Path(__file__), *sorted((HERE / "stand_ins").glob("*.py")))
    if stamp.exists() and stamp.read_text() == digest:
        print(f"{name}: as it was")
        return
    start, python = time.monotonic(), find_python(toolchain.python)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    requirements = HERE / f"{name}.txt"
    pip(name, folder, "--no-deps", "--requirement", str(requirements))
    for package in toolchain.whole:
        pins = requirements.read_text().splitlines()
        pip(name, folder, next(pin for pin in pins if pin.startswith(f"{package}==")))
    toolchain.mend(next((folder / "lib").glob("python3.*/site-packages")))
    checked = subprocess.run([folder / "bin" / "python", "-c", toolchain.check], capture_output=True, text=True)
    if checked.returncode:
        raise SetupError(f"{name} was installed and cannot be imported", checked.stderr.strip().splitlines()[-1])
    stamp.write_text(digest)
    size = sum(path.lstat().st_size for path in folder.rglob("*")) / 1e6
    print(f"{name}: {size:.0f} MB in {time.monotonic() - start:.0f} s", flush=True)


def digest_of(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def pip(name: str, folder: Path, *arguments: str) -> None:
    command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    if subprocess.run(command).returncode:
        raise SetupError(f"{name} could not be installed", "the lines above are pip's")


def find_python(version: str) -> str:
    """From PYTHON310 (or PYTHON311), the PATH, or pyenv's versions; a pyenv shim may stand for none."""
    variable = f"PYTHON{version.replace('.', '')}"
    named = os.environ.get(variable)
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"), reverse=True)
    for candidate in [named] if named else [f"python{version}", *map(str, pyenv)]:
        try:
            found = subprocess.run([candidate, "-c", WHICH], capture_output=True, text=True)
        except OSError:
            continue
        if found.returncode == 0 and found.stdout.strip() == version:
            return candidate
    raise SetupError(f"no Python {version}" if named is None else f"{named} is no Python {version}", f"{variable}=PATH")


WHICH = "import sys, venv; print('%d.%d' % sys.version_info[:2])"

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
