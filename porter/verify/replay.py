"""A block of a port in a folder of its own: its graph, what the original gave it, and what the original made of that.

The folder runs on ONNX Runtime alone, without the checkpoint and without the original: to be repaired, and run again.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from porter import __version__
from porter.errors import ParityError
from porter.package.files import GRAPH, to_json, write_file
from porter.verify.findings import LIMIT, Comparison
from porter.verify.report import Check, Level, Located, ParityReport

SCHEMA_VERSION = 1
FACTS = "replay.json"
WEIGHTS = "weights.bin"
APART = 2**20  # bytes of a weight from which on it lies beside the graph
ANOTHER = "make one with `porter verify PORT --against CHECKPOINT --bisect FOLDER`"
FIELDS = {"value": str, "kind": str, "block": str, "scenario": str, "graph": str, "target": str, "dtype": str}

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Subgraph:
    """A block, ready to be saved: `facts` say what it is, `counted` what of its value is compared."""

    model: ir.Model
    inputs: Arrays
    expected: np.ndarray
    own: np.ndarray
    counted: np.ndarray
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Judgement:
    """How far a value is off: root mean squares of both sides and their ratio; or of choices and masks how many are
    others, of which there may be none.
    """

    value: float
    limit: float
    port: float = 0.0
    own: float = 0.0

    @property
    def fails(self) -> bool:
        """Whether it leaves the band."""
        return not self.value <= self.limit


def judge(kind: str, port: np.ndarray, expected: np.ndarray, own: np.ndarray, counted: np.ndarray) -> Judgement:
    """A value of a port against the original's in float64, beside the original's own in float32; where the original
    itself has no finite numbers nothing is decided.
    """
    if kind == "mask" and port.ndim < expected.ndim:  # a port may have it once for all sequences
        port = np.broadcast_to(port, np.broadcast_shapes(port.shape, expected.shape))
    if kind == "choice" and port.shape[-1] != expected.shape[-1]:  # more experts, or fewer: all are others
        return Judgement(int(np.broadcast_to(counted, (len(expected), 1)).sum()), 0)
    if port.shape != expected.shape:
        return Judgement(math.inf, LIMIT)
    picked = np.broadcast_to(counted, expected.shape)
    if kind == "mask":
        return Judgement(int((port != expected)[picked].sum()), 0)
    if kind == "choice":
        others = np.any(np.sort(port, axis=-1) != np.sort(expected, axis=-1), axis=-1)
        return Judgement(int(others[picked[..., 0]].sum()), 0)
    found = Comparison()
    found.add(port[picked], own[picked], expected[picked])
    if not found.measurable():
        return Judgement(0.0, LIMIT)
    errors = (math.sqrt(total / found.count) for total in (found.port, found.own))
    return Judgement(found.ratio(), LIMIT, *errors)


def write(folder: Path, part: Subgraph) -> None:
    """Writes the folder beside its place and puts it there in one step."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
            inner = Path(beside) / folder.name
            inner.mkdir()
            large = any(v.const_value.nbytes >= APART for v in part.model.graph.initializers.values() if v.const_value)
            ir.save(part.model, inner / GRAPH, external_data=WEIGHTS if large else None, size_threshold_bytes=APART)
            np.savez(inner / "inputs.npz", **part.inputs)  # type: ignore[arg-type]
            np.savez(inner / "expected.npz", value=part.expected, counted=part.counted)
            np.savez(inner / "own.npz", value=part.own)
            facts = {"schema_version": SCHEMA_VERSION, "porter": __version__, **part.facts}
            write_file(inner, FACTS, to_json(facts))
            inner.rename(folder)
    except OSError as error:
        raise ParityError(f"'{folder}' cannot be written: {error.strerror}", "name another folder") from None


def replay(folder: Path, against: Path | None = None) -> ParityReport:
    """Runs a saved block, and says whether it is within the band.

    Raises ParityError for a folder that holds none, is damaged, or is given together with a checkpoint.
    """
    if against is not None:
        raise ParityError("a replay is compared with what was saved, not with a checkpoint", "leave --against out")
    begun = time.monotonic()
    facts = _facts(folder)
    inputs, expected, own = (_arrays(folder / f"{name}.npz") for name in ("inputs", "expected", "own"))
    check, found = _run(folder, facts, inputs, expected, own)
    return ParityReport(
        port=str(folder),
        against=str(folder / "expected.npz"),
        target=facts["target"],
        dtype="float32" if facts["widened"] else facts["dtype"],
        levels=(Level("replay", (check,)),),
        closeness=None,
        seconds=time.monotonic() - begun,
        notes=(f"a block of a port in {facts['dtype']}, widened to float32",) if facts["widened"] else (),
        located=_located(folder, facts, found) if found and found.fails else None,
    )


def _run(
    folder: Path, facts: dict[str, Any], inputs: Arrays, expected: Arrays, own: Arrays
) -> tuple[Check, Judgement | None]:
    name = facts["block"] if facts["layer"] is None else f"layer {facts['layer']}: {facts['block']}"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
        (value,) = session.run([facts["value"]], inputs)
    except Exception as error:  # ONNX Runtime raises types of its own, unrelated to one another
        return Check(name, 1, 0, "fail", f"ONNX Runtime does not run it: {str(error).splitlines()[0]}"), None
    found = judge(facts["kind"], value, expected["value"], own["value"], expected["counted"])
    detail = f"{facts['value']} in {facts['scenario']}; {float(facts['ratio']):.3g} when it was saved"
    return Check.at_most(name, found.value, found.limit, detail), found


def _located(folder: Path, facts: dict[str, Any], found: Judgement) -> Located:
    block = {name: facts[name] for name in ("scenario", "layer", "block", "value", "graph")}
    return Located(quantity=facts["kind"], ratio=found.value, limit=found.limit, folder=str(folder), **block)


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS
    if not path.is_file():
        raise ParityError(f"'{folder}' holds no replay: it has no {FACTS}", ANOTHER)
    try:
        facts: dict[str, Any] = json.loads(path.read_bytes())
        version = facts["schema_version"]
        wrong = [name for name, kind in FIELDS.items() if version == 1 and not isinstance(facts[name], kind)]
        wrong += [name for name in ("layer", "ratio", "widened") if version == 1 and name not in facts]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ParityError(f"'{path}' cannot be read: {error}", ANOTHER) from None
    if version != SCHEMA_VERSION:
        raise ParityError(f"'{path}' has schema_version {version}", f"this porter reads {SCHEMA_VERSION}; bisect again")
    if wrong:
        raise ParityError(f"'{path}' is damaged: {wrong[0]} is missing or makes no sense", ANOTHER)
    return facts


def _arrays(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as found:
            return dict(found)
    except Exception as error:  # NumPy, zipfile and zlib each have their own
        raise ParityError(f"'{path}' cannot be read: {error}", ANOTHER) from None
