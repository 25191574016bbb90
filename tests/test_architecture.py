"""The shape of the code, read from the code: floors, doors, sizes, words. What is written here is true of porter/."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
from command import ROOT, run, spawn

from porter import __version__
from porter.cli import app
from porter.families import families
from porter.target import devices, frontends

PORTER = ROOT / "porter"
# A module may import what stands on a lower line, and of its own package whatever it likes. Top to bottom:
FLOORS = """
5  cli run_ranks
5  options
5  progress
5  render_conversion render_families render_plan render_targets
5  render
5  reports
4  recorded
4  inspect verify
4  catalogue compilation coverage gallery port
3  partition
3  executors sign
3  manifest
3  order recipe
3  lowering plan
3  census model package passes
2  families places target
1  weights
1  source
1  formats
1  blocks cast
1  checkpoint
0  dialect
0  graph
0  schema shape
0  quantize
0  layout
0  behind digests errors exchange
"""
ORDER = {name: -n for n, line in enumerate(FLOORS.split("\n")) for name in line.split()[1:]}
# Who may import what is heavy, foreign, or a door. The rest of porter knows neither ONNX nor a runtime.
DOORS = {
    "typer": {"cli", "options"},
    "rich": {"render", "render_conversion", "render_plan", "render_targets", "progress"},
    "onnx": {"schema", "graph", "passes", "inspect", "verify"},  # those that look at finished graphs
    "onnx_ir": {
        "schema",
        "graph",
        "quantize",
        "dialect",
        "blocks",
        "passes",
        "package",
        "order",
        "partition",
        "weights",
        "lowering",
        "recipe",
        "manifest",
        "port",
        "inspect",
        "verify",
    },
    "torch": {"verify"},
    "transformers": {"verify"},
    "onnxruntime": {"verify"},
    "safetensors": {"verify"},
    "tokenizers": {"verify"},
    "huggingface_hub": {"verify"},
    "google": {"verify"},
    "ray": {"executors"},
    "model_signing": {"sign"},
}
# Blocks speak of onnx-ir's values and types; what makes nodes and tensors of them is porter.graph.
BLOCKS_MAY_NAME = {"Value", "DataType", "Graph"}
HEAVY = {"torch", "transformers", "onnxruntime", "onnx", "onnx_ir", "ray"}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module by its dotted name below porter, and its syntax tree; a package's own file is `package.__init__`."""
    return {
        ".".join(path.relative_to(PORTER).with_suffix("").parts): ast.parse(path.read_text())
        for path in sorted(PORTER.rglob("*.py"))
    }


def top(module: str) -> str:
    return module.split(".")[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """The full names of what a module imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# ------------------------------------------------------------------------------ floors and doors


def test_every_module_has_its_floor() -> None:
    assert {top(name) for name in modules()} - {"__init__", "__main__"} == set(ORDER)


def test_imports_only_go_down() -> None:
    wrong = []
    for name, tree in modules().items():
        for imported in imports(tree):
            inside, _, rest = imported.partition(".")
            if inside != "porter" or top(name) in {"__main__", top(rest)} or rest == "__version__":
                continue
            if ORDER[top(rest or "cli")] >= ORDER[top(name)]:
                wrong.append(f"{name} imports {imported}")
    assert wrong == []


def test_blocks_and_families_know_no_target() -> None:
    for name, tree in modules().items():
        if top(name) in {"blocks", "dialect", "families"}:
            used = {imported.split(".")[1] for imported in imports(tree) if imported.startswith("porter.")}
            assert not used & {"target", "passes", "port", "verify"}, name


def test_heavy_libraries_come_in_by_their_doors() -> None:
    wrong = []
    for name, tree in modules().items():
        for imported in imports(tree):
            doors = DOORS.get(top(imported))
            if doors is not None and top(name) not in doors:
                wrong.append(f"{name} imports {imported}")
    assert wrong == []


def test_blocks_build_only_through_the_graph() -> None:
    for name, tree in modules().items():
        if top(name) == "blocks":
            named = {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ir"
            }
            assert named <= BLOCKS_MAY_NAME, name


def test_only_render_prints() -> None:
    spoken = {name for name, tree in modules().items() for node in ast.walk(tree) if _prints(node)}
    assert spoken == {"render", "cli"}
    said = [ast.unparse(node) for node in ast.walk(modules()["cli"]) if _prints(node)]
    assert sorted(said) == ["sys.stderr", "sys.stdout", "sys.stdout", "typer.echo"]  # interrupted, flushed, --version


def _prints(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id == "print"
    return isinstance(node, ast.Attribute) and ast.unparse(node) in {
        "sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__", "typer.echo", "typer.secho", "os.write",
    }  # fmt: skip


# ------------------------------------------------------------------------------ names of models and devices


def test_no_model_or_target_is_called_by_its_name() -> None:
    """Models differ by their files and devices by their TOMLs: nobody asks who it is."""
    names = {*families(), *devices(), *frontends()}
    names |= {kind for family in families().values() for kind in family.model_types}
    names |= {variant for device in devices().values() for variant in device.variants}
    found = [
        f"{module}:{node.lineno}: {node.value!r}"
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in names and (top(module), node.value) not in MEANS_ANOTHER
        if not (module.startswith("families.") and node.value == module.split(".")[1])
    ]
    assert found == []


MEANS_ANOTHER = {("verify", "onnxruntime"), ("recorded", "onnxruntime")}  # the Python package of that name


# ------------------------------------------------------------------------------ words and sizes


def test_what_is_public_is_documented() -> None:
    """Modules, classes, functions; a method speaks for itself, or for the one that it overrides."""
    bare = [name for name, tree in modules().items() if not ast.get_docstring(tree)]
    for name, tree in modules().items():
        for node in tree.body:
            public = isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                bare.append(f"{name}.{node.name}")
    assert bare == []


def test_every_function_is_typed() -> None:
    bare = []
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                every = node.args
                given = [*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg]
                untyped = [a.arg for a in given if a and a.annotation is None and a.arg not in {"self", "cls"}]
                if untyped or node.returns is None:
                    bare.append(f"{name}.{node.name}({', '.join(untyped)})")
    assert bare == []


def test_files_and_functions_stay_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {count} lines"
        for path in PORTER.rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 300
    ]
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.FunctionDef)
                and node.end_lineno is not None
                and node.end_lineno - node.lineno >= 60
            ):
                long.append(f"{name}.{node.name}")
    assert long == []


# ------------------------------------------------------------------------------ what is loaded when

LOADED = """
import sys
from porter.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("code", end.code or 0, *sorted(m for m in sys.modules if m in {heavy}))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["verify", "--help"], ["targets"], ["convert", "-x"]])
def test_help_and_targets_load_nothing_heavy(arguments: list[str]) -> None:
    done = spawn(*arguments, program=LOADED.format(heavy=HEAVY))
    code = 2 if "-x" in arguments else 0
    assert done.out.splitlines()[-1] == f"code {code}"


def test_convert_loads_no_torch(llama: Path, tmp_path: Path) -> None:
    arguments = ["convert", llama, "--target", "onnxruntime-cpu", "-o", tmp_path / "port"]
    done = spawn(*arguments, program=LOADED.format(heavy=HEAVY))
    assert done.out.splitlines()[-1] == "code 0 onnx onnx_ir"


# ------------------------------------------------------------------------------ what is written elsewhere


def test_version_is_the_top_of_the_changelog() -> None:
    versions = re.findall(r"^## \[?(\d\S*?)\]?(?:\s|$)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == __version__
    assert run("--version").out == f"porter {__version__}\n"


def commands() -> list[str]:
    return sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_and_is_in_the_readme(command: str) -> None:
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    assert len(found.help) > 20
    assert all(parameter.help for parameter in found.params)
    assert f"porter {command}" in (ROOT / "README.md").read_text()
    assert found.help.split()[:5] == run(command, "--help").out.split("\n\n")[1].split()[:5]
