"""The sample program for Ascend, against a stand-in for pyACL: what it cannot prove is that the manual is right."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import ROOT, run
from measured import write

from porter.errors import ParityError
from porter.manifest import open_port
from porter.port import convert
from porter.verify.program import Program
from porter.verify.runtime import graph_files
from porter.verify.session import BrokenPort

SAMPLE = ROOT / "samples" / "runtime" / "acl_om.py"
COMMAND = f"env PYTHONPATH={Path(__file__).parent / 'stand_in'} {sys.executable} {SAMPLE}"


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        ("onnxruntime-cpu", None),
        ("onnxruntime-cpu", "batch=1,sequence=32,context=160"),
        ("ascend-910b", "batch=1,sequence=16/64,context=160"),  # gears of one graph
    ],
)
def test_a_compiled_port_is_run(target: str, shape: str | None, tmp_path: Path) -> None:
    checkpoint, _ = write(tmp_path, "llama", "float32")
    port = tmp_path / "compiled"
    convert(checkpoint, target, port, dtype="float16", shape=shape)
    for graph in port.glob("*.onnx"):
        graph.with_suffix(".om").touch()
    found = run("verify", port, "--against", checkpoint, "--level", "dtype", "--json", "--runtime", COMMAND)
    document = found.json()
    assert (found.code, document["status"]) == (0, "pass")
    assert document["notes"][0].startswith("computed by Stand-in 1: ")


def test_it_runs_what_the_compiler_made(llama_port: Path, tmp_path: Path) -> None:
    """Its products are in porter.json, and need not be called as the graph is."""
    port = tmp_path / "port"
    port.mkdir()
    for path in llama_port.iterdir():
        (port / path.name).hardlink_to(path)
    with Program(COMMAND) as program, pytest.raises(ParityError, match=r"model.onnx was not compiled: run porter"):
        program.open(graph_files(open_port(port))["model.onnx"])
    manifest = json.loads((port / "porter.json").read_text())
    product = {"file": "another.om", "bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    manifest["compiled"] = [{"graph": "model.onnx", "products": [product]}]  # as `porter compile` writes it
    manifest["files"].append(product | {"of": "compiler"})
    (port / "another.om").touch()
    (port / "porter.json").unlink()
    (port / "porter.json").write_text(json.dumps(manifest))
    (graph,) = graph_files(open_port(port)).values()
    assert graph.products == (port / "another.om",)
    (port / "another.om").unlink()  # so that it is seen to be asked for
    with (
        Program(COMMAND) as program,
        pytest.raises(BrokenPort, match=r"does not load: acl\.mdl\.load_from_file gave 145"),
    ):
        program.open(graph)


def test_nothing_is_left_on_the_device(llama_port: Path, tmp_path: Path) -> None:
    port = tmp_path / "port"
    port.mkdir()
    for path in llama_port.iterdir():
        (port / path.name).hardlink_to(path)
    (port / "model.om").touch()
    (graph,) = graph_files(open_port(port)).values()
    program = Program(COMMAND)
    with program:
        opened = program.open(graph)
        sizes: dict[Any, int] = {"batch": 1, "sequence": 2, "past": 0, "total": 2}
        opened.run({v.name: np.ones([sizes.get(d, d) for d in v.shape or ()], v.numpy) for v in graph.inputs})
    assert "left over: 0" in program.broken("").message


def test_without_pyacl_it_says_what_is_missing(llama_port: Path) -> None:
    (graph,) = graph_files(open_port(llama_port)).values()
    with pytest.raises(ParityError, match="No module named 'acl'"), Program(f"{sys.executable} {SAMPLE}") as program:
        program.open(graph)
