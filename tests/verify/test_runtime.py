"""The port as it is deployed, run by a real program on the other side of the protocol, sound or tampered with."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from command import ROOT, Outcome, run
from measured import checks, write

from porter.errors import ParityError
from porter.manifest import open_port
from porter.port import convert
from porter.verify.program import Program
from porter.verify.runtime import GraphFile, Value, graph_files
from porter.verify.session import BrokenPort

SAMPLE = ROOT / "samples" / "runtime" / "onnxruntime_program.py"
COMMAND = f"{sys.executable} {SAMPLE}"
TAMPERED = """
import sys, time
sys.path.insert(0, {folder!r})
import numpy
import onnxruntime_program as program
from onnxruntime_program import Graph, Server

sound, opened = Graph.run, Server.open
{code}
program.main()
"""


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Llama and its port in float16."""
    return write(tmp_path_factory.mktemp("dense"), "llama", "float16")


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A DeepSeek-V3 and its port in float16."""
    return write(tmp_path_factory.mktemp("routed"), "deepseek_v3", "float16")


@pytest.fixture
def tampered(tmp_path: Path) -> Callable[[str], str]:
    """The command line of the sample program with some code put before it begins."""

    def tamper(code: str) -> str:
        path = tmp_path / "program.py"
        path.write_text(TAMPERED.format(folder=str(SAMPLE.parent), code=code))
        return f"{sys.executable} {path}"

    return tamper


def verify(pair: tuple[Path, Path], *more: str, level: str = "dtype") -> Outcome:
    checkpoint, port = pair
    return run("verify", port, "--against", checkpoint, "--level", level, "--json", *more)


# ------------------------------------------------------------------------------ verdicts


def test_what_a_program_computes_is_judged(dense: tuple[Path, Path]) -> None:
    found = verify(dense, "--runtime", COMMAND, level="all")
    document = found.json()
    assert (found.code, document["status"], document["runtime"]) == (0, "pass", COMMAND)
    assert [level["name"] for level in document["levels"]] == ["weights", "dtype", "distribution"]
    assert {"logits", "cache"} <= checks(document).keys()
    assert not {"layers", "routes forced: logits"} & checks(document).keys()
    left_out, computed = document["notes"]
    assert left_out.startswith("semantics was left out")
    assert computed.startswith("computed by CPUExecutionProvider onnxruntime ")


@pytest.fixture
def few(tmp_path: Path) -> tuple[str, str]:
    """As few prompts as may be, for what would take long."""
    ids = np.random.default_rng(3).integers(0, 97, (8, 9)).tolist()
    (tmp_path / "few.jsonl").write_text("\n".join(json.dumps({"ids": prompt}) for prompt in ids))
    return "--prompts", str(tmp_path / "few.jsonl")


def test_a_provider_and_a_program_that_has_it_give_the_same_numbers(
    routed: tuple[Path, Path], few: tuple[str, str]
) -> None:
    documents = [
        verify(routed, *given, *few, level="distribution").json()
        for given in (("--provider", "CPUExecutionProvider"), ("--runtime", COMMAND))
    ]
    assert documents[0]["levels"] == documents[1]["levels"]
    assert documents[0]["runtime"] == "provider:CPUExecutionProvider"
    assert "routes changed, lead over noise" in checks(documents[0])
    (note,) = documents[0]["notes"]
    assert note.startswith("the graph as deployed was run by ONNX Runtime")
    assert note.endswith(" on CPUExecutionProvider")


def test_a_program_need_not_show_which_experts_it_chose(
    routed: tuple[Path, Path], few: tuple[str, str], tampered: Callable[[str], str]
) -> None:
    command = tampered("Server.open = lambda self, request: opened(self, request | {'watched': None})")
    document = verify(routed, "--runtime", command, *few, level="distribution").json()
    assert "routes changed, lead over noise" not in checks(document)
    assert document["status"] in {"pass", "inconclusive"}
    assert document["notes"][1].startswith("it does not show which experts it chose")


def test_graphs_of_fixed_sizes_are_opened_each(dense: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, _ = dense
    sizes = "batch=1,sequence=16,context=160"
    convert(checkpoint, "onnxruntime-cpu", tmp_path / "port", dtype="float16", shape=sizes)
    document = verify((checkpoint, tmp_path / "port"), "--runtime", COMMAND).json()
    assert document["status"] == "pass"


EMULATED = """
from pathlib import Path
from ml_dtypes import bfloat16
from porter.manifest import open_port
from porter.verify.session import GraphSession

class Emulated:
    def __init__(self, request, options, providers):
        path = Path(request["graph"])
        self.outputs = request["outputs"]
        self.port = GraphSession(open_port(path.parent), path, lambda wanted: None, forced=False, deployed=True)
        self.session = self

    def get_providers(self):
        return ["CPUExecutionProvider"]

    def shares(self):
        return ""

    def run(self, arrays):
        wide = {n: a.view(bfloat16).astype("float32") if a.dtype == "uint16" else a for n, a in arrays.items()}
        found = self.port.run(wide, None, 1.0)
        arrays = {"logits": found.logits}
        arrays |= {name.replace("past_key_values", "present"): array for name, array in found.cache.items()}
        kinds = {value["name"]: value["dtype"] for value in self.outputs}
        return {n: a.astype(bfloat16).view("uint16") if kinds[n] == "bfloat16" else a for n, a in arrays.items()}

program.Graph = Emulated
"""


def test_bfloat16_travels_as_its_bits(tmp_path: Path, tampered: Callable[[str], str]) -> None:
    """And a device that computes as the emulation does is judged as it is."""
    pair = write(tmp_path, "llama", "bfloat16")
    here, there = verify(pair).json(), verify(pair, "--runtime", tampered(EMULATED)).json()
    found, expected = checks(there), checks(here)
    assert there["status"] == "pass"
    assert {name: found[name]["value"] for name in ("logits", "cache")} == {
        name: expected[name]["value"] for name in ("logits", "cache")
    }


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("Graph.run = lambda self, a: (r := sound(self, a)) | {'logits': r['logits'] * numpy.float16(1.01)}", "logits"),
        ("Graph.run = lambda self, a: {n: x * numpy.float16('nan') for n, x in sound(self, a).items()}", "values not"),
        ("Graph.run = lambda self, a: sound(self, {n: x[:0] for n, x in a.items()})", "calls that the port fails"),
    ],
)
def test_wrong_numbers_fail(code: str, named: str, dense: tuple[Path, Path], tampered: Callable[[str], str]) -> None:
    found = verify(dense, "--runtime", tampered(code))
    failed = [name for name, check in checks(found.json()).items() if check["status"] == "fail"]
    assert found.code == 1
    assert any(name.startswith(named) for name in failed)


# ------------------------------------------------------------------------------ the protocol


@pytest.fixture
def graph(dense: tuple[Path, Path]) -> GraphFile:
    return graph_files(open_port(dense[1]))["model.onnx"]


def feed(graph: GraphFile) -> dict[str, np.ndarray]:
    """Two tokens and no past."""
    sizes: dict[Any, int] = {"batch": 1, "sequence": 2, "past": 0, "total": 2}
    return {v.name: np.ones([sizes.get(d, d) for d in v.shape or ()], v.numpy) for v in graph.inputs}  # type: ignore[misc]


def test_requests_are_as_they_are_written_down(graph: GraphFile, tampered: Callable[[str], str]) -> None:
    """In docs/runtime.md, where each is a block of JSON."""
    written = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "runtime.md").read_text(), re.DOTALL)
    requests = {request["op"]: request for request in map(json.loads, written) if "op" in request}
    answers = [answer for answer in map(json.loads, written) if "ok" in answer]
    echo = "{'ok': False, 'error': program.json.dumps(request)} if request['op'] == {0!r} else sound(self, request)"
    made = {}
    for op in ("open", "run"):
        command = tampered(
            "sound = Server.answer\nServer.answer = lambda self, request: " + echo.replace("{0!r}", f"'{op}'")
        )
        with Program(command) as program, pytest.raises(BrokenPort) as refused:
            program.open(graph).run(feed(graph))
        made[op] = json.loads(re.sub(r"^.*?(?={)", "", str(refused.value)))
    assert {op: list(request) for op, request in made.items()} | {"close": ["op"]} == {
        op: list(request) for op, request in requests.items()
    }
    assert made["open"]["graph"] == str(graph.path)
    assert made["open"]["inputs"][0] == {"name": "input_ids", "dtype": "int64", "shape": ["batch", "sequence"]}
    assert (made["open"]["products"], made["open"]["watched"], made["open"]["watch"]) == ([], None, [])
    assert [list(answer) for answer in answers] == [
        ["ok", "session", "device", "version", "watched"],
        ["ok", "seconds"],
    ]


def test_a_port_with_experts_brings_a_graph_that_shows_them(routed: tuple[Path, Path]) -> None:
    found = graph_files(open_port(routed[1]))["model.onnx"]
    watching, deployed = onnx.load_from_string(found.watching), onnx.load(found.path, load_external_data=False)
    names = [value.name for value in watching.graph.output]
    assert names == [value.name for value in deployed.graph.output] + [value.name for value in found.watched]
    assert [node.SerializeToString() for node in watching.graph.node] == [
        node.SerializeToString() for node in deployed.graph.node
    ]
    with Program(COMMAND) as program:
        results = program.open(found).run(feed(found))
    assert {results[value.name].shape for value in found.watched} == {(2, 4)}


def test_arrays_come_back(graph: GraphFile) -> None:
    with Program(COMMAND) as program:
        opened = program.open(graph)
        found = opened.run(feed(graph))
        assert found["logits"].shape[:2] == (1, 2)
        assert found["logits"].dtype == np.float16
        assert list(Path(program._folder.name).iterdir()) == []  # what was read is cleared away
    assert not Path(program._folder.name).exists()
    assert program._process.returncode == 0


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("Server.open = lambda self, request: {}['graph']", "its log ends: "),
        ("sys.exit('no device here')", "ended with 1 where 'open' was to be answered; its log ends: no device here"),
        ("Server.run = lambda self, request: sys.exit(7)", "ended with 7 where 'run' was to be answered"),
        ("print('loading the driver', flush=True)", "wrote 'loading the driver' to stdout, which is no answer"),
        ("Server.answer = lambda self, request: [1]", "wrote '[1]' to stdout"),
        ("Server.open = lambda self, request: {'session': 'one'}", "without the number of a session"),
        ("Server.answer = lambda self, request: time.sleep(60)", "gave no answer to 'open' within 2 s"),
        ("Server.run = lambda self, request: {}", "left no outputs that can be read: "),
        ("Server.run = lambda self, r: program.pathlib.Path(r['outputs']).write_text('x') and {}", "left no outputs"),
        ("Graph.run = lambda self, a: {'logits': sound(self, a)['logits']}", "answered without present.0."),
        ("Graph.run = lambda self, a: sound(self, a) | {'x': a['input_ids']}", "answered with x, which was not asked"),
        ("Graph.run = lambda self, a: {n: x.astype('f4') for n, x in sound(self, a).items()}", "float32, not float16"),
        ("Graph.run = lambda self, a: {n: x[:, :1] for n, x in sound(self, a).items()}", "logits as [1, 1, "),
    ],
)
def test_a_broken_program_is_told_what_it_did(
    code: str, says: str, graph: GraphFile, tampered: Callable[[str], str]
) -> None:
    patience = 2 if "sleep" in code else 60
    with pytest.raises(ParityError) as refused, Program(tampered(code), patience) as program:
        program.open(graph).run(feed(graph))
    assert says in refused.value.message
    assert "docs/runtime.md" in refused.value.hint
    assert program._process.returncode is not None


def test_what_a_script_started_ends_with_it(graph: GraphFile, tmp_path: Path) -> None:
    (tmp_path / "device.sh").write_text("sleep 600\necho never\n")
    with pytest.raises(ParityError, match="gave no answer"), Program(f"sh {tmp_path / 'device.sh'}", 1) as program:
        program.open(graph)
    assert not any(reader.is_alive() for reader in program._readers)  # nobody holds the other ends


def test_what_numpy_has_not_travels_as_unsigned_integers() -> None:
    kinds = {kind: str(Value("", kind, None).travels) for kind in ("float32", "float16", "bfloat16", "float8e4m3fn")}
    assert kinds == {"float32": "float32", "float16": "float16", "bfloat16": "uint16", "float8e4m3fn": "uint8"}


def test_a_plug_in_is_registered_by_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ONNX Runtime's manual has it, and without one at hand."""
    (tmp_path / "some_plug_in.py").write_text("def get_library_path():\n    return 'a library'\n")
    for folder in (tmp_path, SAMPLE.parent):
        monkeypatch.syspath_prepend(str(folder))
    program = importlib.import_module("onnxruntime_program")
    registered, asked = [], []
    devices = [SimpleNamespace(ep_name=name) for name in ("CPUExecutionProvider", "SomeProvider")]
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda *given: registered.append(given))
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: devices)
    options = SimpleNamespace(
        add_provider_for_devices=lambda *given: asked.append(given), add_session_config_entry=lambda *given: None
    )
    monkeypatch.setattr(onnxruntime, "SessionOptions", lambda: options)
    assert program.Server("SomeProvider", "some_plug_in").options() == (options, None)
    assert registered == [("SomeProvider", "a library")]
    assert asked == [(devices[1:], {})]


# ------------------------------------------------------------------------------ what is refused


def test_a_manifest_that_does_not_describe_its_graphs_is_refused(dense: tuple[Path, Path], tmp_path: Path) -> None:
    port = Path(shutil.copytree(dense[1], tmp_path / "port"))
    manifest = json.loads((port / "porter.json").read_text())
    del manifest["graphs"][0]["inputs"][0]["dtype"]
    (port / "porter.json").write_text(json.dumps(manifest))
    refusal = verify((dense[0], port), "--provider", "CPUExecutionProvider").refusal()
    assert "of its graphs 'dtype' is missing" in refusal


def test_a_provider_that_gives_way_to_another_is_refused(
    dense: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ONNX Runtime does without an error where a library of the vendor's is missing."""
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda session: ["CPUExecutionProvider"])
    refusal = verify(dense, "--provider", "AzureExecutionProvider").refusal()
    assert "AzureExecutionProvider did not start: ONNX Runtime fell back on CPUExecutionProvider" in refusal


def test_a_runtime_that_does_not_say_who_took_what_is_refused(
    dense: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "get_provider_graph_assignment_info"
    monkeypatch.delattr(next(kind for kind in onnxruntime.InferenceSession.__mro__ if name in vars(kind)), name)
    refusal = verify(dense, "--provider", "CPUExecutionProvider").refusal()
    assert "onnxruntime_program.py" in refusal


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--runtime", "no-such-program"), "names no program that can be run"),
        (("--runtime", "'"), "is no command line"),
        (("--runtime", f"{sys.executable} -c 'raise SystemExit(3)'"), "ended with 3"),
        (("--provider", "NoSuchProvider"), "known: "),
        (("--provider", "AzureExecutionProvider"), "takes no node of model.onnx"),
        (("--provider", "CPUExecutionProvider", "--runtime", "sh"), "give one of them"),
        (("--runtime", "sh", "--level", "semantics"), "take --level dtype, distribution or all"),
        (("--provider", "CPUExecutionProvider", "--level", "weights"), "take --level dtype"),
        (("--runtime", "sh", "--layers", "0"), "leave --layers out"),
    ],
)
def test_what_cannot_be_had_is_refused(given: tuple[str, ...], says: str, dense: tuple[Path, Path]) -> None:
    level = () if "--level" in given else ("--level", "dtype")
    assert says in run("verify", dense[1], "--against", dense[0], "--json", *level, *given).refusal()
