"""porter compile: a stand-in for the vendor's tool shows what is run, what is believed, and what is written down."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import run
from surgery import digests_hold

from porter.port import convert

# Writes what it was asked to write, and its arguments into it; FAIL and SAY are put in by the tests.
ATC = """#!/bin/sh
for argument in "$@"; do
  case "$argument" in --output=*) output="${argument#--output=}.om";; esac
done
echo "ATC start working now, please wait for a moment."
SAY
echo "$@" > "$output"
FAIL
"""


@pytest.fixture(scope="module")
def made(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A port of fixed sizes for one card: two graphs, a command for each."""
    port = tmp_path_factory.mktemp("ports") / "port"
    convert(llama, "ascend-910b4", port, shape="sequence=8,context=32")
    return port


@pytest.fixture
def port(made: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-r", made, tmp_path / "port"], check=True)
    return tmp_path / "port"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a tool that says and does something of its own."""

    def install(say: str = ":", fail: str = ":") -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "atc").write_text(ATC.replace("SAY", say).replace("FAIL", fail))
        (folder / "atc").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return install


def manifest(port: Path) -> dict[str, Any]:
    found = json.loads((port / "porter.json").read_text())
    assert isinstance(found, dict)
    return found


def test_where_the_tool_is_not_installed_the_command_is_told(port: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    before = (port / "porter.json").read_bytes()
    found = run("compile", port)
    assert found.code == 0
    assert "not compiled, atc is not installed here" in found.out
    assert "atc --framework=5 --model=prefill.onnx --output=prefill --soc_version=Ascend910B4" in found.out
    document = run("compile", port, "--json").json()
    assert (document["compiled"], document["missing"], document["steps"]) == (False, ["atc"], [])
    assert [command.split()[2] for command in document["commands"]] == ["--model=prefill.onnx", "--model=decode.onnx"]
    assert all(command in (port / "compile.sh").read_text() for command in document["commands"])
    assert (port / "porter.json").read_bytes() == before


def test_each_graph_is_compiled_and_what_came_of_it_is_written_down(port: Path, tool: Callable[..., None]) -> None:
    tool()
    found = run("compile", port, "--json")
    assert found.code == 0, found
    assert found.err.count("ATC start working now") == 2, "the tool's log goes to stderr as it comes"
    steps = found.json()["steps"]
    assert [(s["graph"], s["exit_code"], s["refused"]) for s in steps] == [
        ("prefill.onnx", 0, None),
        ("decode.onnx", 0, None),
    ]
    assert "--model=decode.onnx" in (port / "decode.om").read_text()
    assert manifest(port)["compiled"] == steps
    listed = {entry["file"] for entry in manifest(port)["files"] if entry.get("of") == "compiler"}
    assert listed == {"prefill.om", "decode.om", "compile.log"}
    digests_hold(port)


def test_a_compiled_port_still_verifies_and_a_changed_product_is_found(
    port: Path, llama: Path, tool: Callable[..., None]
) -> None:
    tool()
    run("compile", port)
    verify = ["verify", port, "--against", llama, "--level", "weights"]
    assert run(*verify).code == 0
    (port / "decode.om").write_text("another")
    assert run(*verify).code == 1


def test_compiling_again_replaces_what_was_written_down(port: Path, tool: Callable[..., None]) -> None:
    tool()
    run("compile", port)
    first = manifest(port)
    assert run("compile", port).code == 0
    again = manifest(port)
    assert [e["file"] for e in again["files"]] == [e["file"] for e in first["files"]]
    assert len(again["compiled"]) == 2


@pytest.mark.parametrize(
    ("say", "fail", "says"),
    [
        ('echo "E16002: No ONNX parser is registered for op Foo"', ":", "E16002: No ONNX parser is registered"),
        (":", "exit 3", "the tool ended with 3"),
        (":", 'rm "$output"', "the tool wrote no 'prefill.om'"),
    ],
    ids=["its log says so", "its exit code", "it wrote nothing"],
)
def test_a_refusal_is_a_failure_whatever_the_exit_code(
    say: str, fail: str, says: str, port: Path, tool: Callable[..., None]
) -> None:
    tool(say, fail)
    found = run("compile", port, "--json")
    assert (found.code, found.out) == (2, "")
    error, hint = found.err.splitlines()[-2:]
    assert error.startswith("error: prefill.onnx was not compiled: ")
    assert says in error
    assert "compile.log" in hint
    assert manifest(port)["compiled"][0]["refused"] is not None
    digests_hold(port)


def test_what_an_earlier_run_left_proves_nothing(port: Path, tool: Callable[..., None]) -> None:
    (port / "prefill.om").write_text("of yesterday")
    tool(fail='rm "$output"')
    assert run("compile", port).code == 2
    assert not (port / "prefill.om").exists()


def test_a_front_end_without_a_compiler_needs_none(llama_port: Path) -> None:
    found = run("compile", llama_port)
    assert (found.code, "nothing to compile" in found.out) == (0, True)


def test_a_folder_that_is_no_port_is_refused(llama: Path) -> None:
    assert "is not a port" in run("compile", llama, "--json").refusal()


def test_every_segment_of_every_card_is_compiled(llama: Path, tool: Callable[..., None], tmp_path: Path) -> None:
    """Products lie beside their graphs, in the folders of the ranks, and the manifest lists them there."""
    tool()
    convert(llama, "ascend-910b4", tmp_path / "port", shape="sequence=8,context=32", pp=2)
    done = run("compile", tmp_path / "port", "--json")
    assert done.code == 0
    steps = done.json()["steps"]
    graphs = [entry["file"] for entry in manifest(tmp_path / "port")["graphs"]]
    assert (
        [step["graph"] for step in steps]
        == graphs
        == [f"rank-0{rank}/{name}-000.onnx" for rank in (0, 1) for name in ("prefill", "decode")]
    )
    assert [p["file"] for step in steps for p in step["products"]] == [g.replace(".onnx", ".om") for g in graphs]
    digests_hold(tmp_path / "port")
    assert run("inspect", tmp_path / "port", "--json").json()["split"] == {"tp": 1, "ep": 1, "pp": 2, "cards": 2}
