"""The story of a compilation: the vendor's own tool on each graph of a port, where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from porter.errors import PortError
from porter.manifest import SCHEMA_VERSION, Port, open_port
from porter.package.files import MANIFEST, SIGNATURE, digest_of, replace_file, to_json
from porter.sign import Signer

LOG, SCRIPT = "compile.log", "compile.sh"
COMPILER = "compiler"  # under `of` in the entry of a file that the vendor's tool wrote
MODULE = "python:"  # in front of a tool that is a module of the python on the PATH

Say = Callable[[str], None]


def compile_port(folder: Path, *, sign: Path | None = None, say: Say = lambda line: None) -> dict[str, Any]:
    """Runs the vendor's tool on each graph and records in porter.json what came of it; `say` gets its log by lines.

    Where the tool is not installed nothing is run: the result has the commands, which are in compile.sh too.
    Raises PortError where the tool fails, or its log says that it refused, whatever its exit code.
    """
    port = open_port(folder)
    recipe: Mapping[str, Any] = port.manifest.get("compile") or {"tools": [], "steps": []}
    signer = Signer(sign) if sign else None
    missing = [tool for tool in recipe["tools"] if not _installed(tool)]
    result = {
        "schema_version": SCHEMA_VERSION,
        "port": str(folder),
        "target": port.manifest["target"],
        "frontend": port.manifest["frontend"],
        "compiled": bool(recipe["steps"]) and not missing,
        "missing": missing,
        "script": SCRIPT if recipe["steps"] else None,
        "commands": [step["command"] for step in recipe["steps"]],
        "steps": [],
    }
    if not result["compiled"]:
        return result
    if (folder / SIGNATURE).is_file() and signer is None:
        raise PortError(f"'{folder}' is signed, and compiling adds to it", "give --sign KEY to sign it anew")
    version = _version(recipe.get("version"), folder)
    with (folder / LOG).open("w", encoding="utf-8") as log:
        for step in recipe["steps"]:
            done = _run(step, recipe["refusals"], folder, log, say) | {"version": version}
            result["steps"].append(done)
            if done["refused"] is not None:
                break
    _record(port, result["steps"], signer)
    if done["refused"] is not None:
        raise PortError(f"{done['graph']} was not compiled: {done['refused']}", f"'{folder / LOG}' has it all")
    return result


def _run(step: Mapping[str, Any], refusals: Sequence[str], folder: Path, log: TextIO, say: Say) -> dict[str, Any]:
    """One command, to its end; `refused` says why what it left is no success."""
    for product in step["products"]:
        (folder / product).unlink(missing_ok=True)  # what an earlier run left proves nothing
    begun, found = time.monotonic(), None
    with subprocess.Popen(
        ["sh", "-eu", "-c", step["command"]],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            say(line.rstrip("\n"))
            if found is None and any(re.search(pattern, line) for pattern in refusals):
                found = line.strip()
    there = [product for product in step["products"] if (folder / product).is_file()]
    products = [digest_of(folder / product) | {"file": product} for product in there]
    absent = [product for product in step["products"] if product not in there]
    if found is None and process.returncode:
        found = f"the tool ended with {process.returncode}"
    if found is None and absent:
        found = f"the tool wrote no '{absent[0]}'"
    return {
        "graph": step["graph"],
        "command": step["command"],
        "exit_code": process.returncode,
        "refused": found,
        "products": products,
        "seconds": round(time.monotonic() - begun, 3),
    }


def _record(port: Port, steps: Sequence[Mapping[str, Any]], signer: Signer | None) -> None:
    """Puts what came of it into porter.json, and its files among those that the port lists."""
    products = [{**product, "of": COMPILER} for step in steps for product in step["products"]]
    files = [entry for entry in port.manifest["files"] if entry.get("of") != COMPILER]
    log = {**digest_of(port.folder / LOG), "of": COMPILER}
    manifest = port.manifest | {"files": [*files, *products, log], "compiled": list(steps)}
    replace_file(port.folder, MANIFEST, to_json(manifest))
    if signer:
        (port.folder / SIGNATURE).unlink(missing_ok=True)
        signer.sign(port.folder, manifest, port.folder.name)


def _installed(tool: str) -> bool:
    if not tool.startswith(MODULE):
        return shutil.which(tool) is not None
    asked = f"import importlib.util as u; raise SystemExit(u.find_spec({tool.removeprefix(MODULE)!r}) is None)"
    python = shutil.which("python") or shutil.which("python3")
    return (
        python is not None and subprocess.run([python, "-c", asked], capture_output=True, check=False).returncode == 0
    )


def _version(command: str | None, folder: Path) -> str | None:
    """The first line that the tool says of its version; None where it says nothing."""
    if command is None:
        return None
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    return next(iter((done.stdout or done.stderr).strip().splitlines()), None)
