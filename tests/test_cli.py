"""The command line is a contract: options, documents, exit codes, and who gets to read what."""

from __future__ import annotations

import inspect
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from enum import EnumType
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer
from command import ROOT, digests, run, spawn

from porter.cli import app
from porter.errors import PortError
from porter.target import devices
from porter.verify.report import Check, Level, ParityReport

JSON = "--json"
MUST = "must be given"
# Scripts rely on these: name → what it takes, and its default. A new one is listed here, an old one stays.
OPTIONS = {
    "convert": {
        "CHECKPOINT": ("Path", MUST),
        "--target": ("str", MUST),
        "-o --output": ("Path", MUST),
        "--dtype": ("auto|float32|float16|bfloat16", "auto"),
        "--attention": ("auto|absorbed|expanded", "auto"),
        "--shape": ("str | None", None),
        "--tp": ("int", 1),
        "--ep": ("int", 1),
        "--pp": ("int", 1),
        "--frontend": ("str | None", None),
        "--weights": ("copy|reference", "copy"),
        "--shard-size": ("str", "4GiB"),
        "--placement": ("pathlib.Path | None", None),
        "--executor": ("local|ray", "local"),
        "--quantize": ("str", "none"),
        "--digests": ("bool", False),
        "--sign": ("pathlib.Path | None", None),
        "--force": ("bool", False),
        "--jobs": ("int | None", None),
        "--dry-run": ("bool", False),
        "--list-families": ("bool", False),
        JSON: ("bool", False),
    },
    "verify": {
        "PORT": ("Path", MUST),
        "--against": ("pathlib.Path | None", None),
        "--level": ("weights|semantics|dtype|distribution|all", "all"),
        "--public-key": ("pathlib.Path | None", None),
        "--tokens": ("int", 8),
        "--prompts": ("pathlib.Path | None", None),
        "--layers": ("str | None", None),
        "--memory": ("str | None", None),
        "--launch": ("int | None", None),
        "--bisect": ("pathlib.Path | None", None),
        "--replay": ("bool", False),
        "--report": ("list[pathlib.Path] | None", None),
        "--runtime": ("str | None", None),
        "--provider": ("str | None", None),
        "--save-routes": ("pathlib.Path | None", None),
        "--fresh": ("bool", False),
        JSON: ("bool", False),
    },
    "inspect": {"PATH": ("Path", MUST), JSON: ("bool", False)},
    "compile": {"PORT": ("Path", MUST), "--sign": ("pathlib.Path | None", None), JSON: ("bool", False)},
    "plan": {
        "CHECKPOINT": ("Path", MUST),
        "--target": ("str", MUST),
        "--cards": ("str | None", None),
        "--tp": ("int | None", None),
        "--ep": ("int | None", None),
        "--pp": ("int | None", None),
        "--dtype": ("auto|float32|float16|bfloat16|float8e4m3fn|int8|int4", "auto"),
        "--cache-dtype": ("auto|float32|float16|bfloat16|float8e4m3fn|int8|int4", "auto"),
        "--batch": ("int | None", None),
        "--context": ("int | None", None),
        "--prompt": ("int | None", None),
        "--accepted": ("float", 1.0),
        "--slo": ("float | None", None),
        "--phase": ("decode|prefill", "decode"),
        "--routes": ("pathlib.Path | None", None),
        "--replicas": ("int", 0),
        "--save-placement": ("pathlib.Path | None", None),
        "--explain": ("bool", False),
        "--report": ("pathlib.Path | None", None),
        JSON: ("bool", False),
    },
    "targets": {"NAME": ("str | None", None), "--coverage": ("bool", False), JSON: ("bool", False)},
}
FIELDS = {
    "convert": "port target frontend family dtype graphs weights lowering seconds peak_rss_bytes",
    "verify": "passed levels greedy_match max_abs_error cosine kl seconds",
    "inspect": "family model_type parameters active_parameters layers cache_bytes_per_token_per_layer",
    "compile": "port target frontend compiled missing commands steps",
    "plan": "candidates",
    "targets": "targets",
}
ESCAPE = "\x1b"


def arguments(command: str, checkpoint: Path, port: Path, new: Path) -> list[object]:
    return {
        "convert": ["convert", checkpoint, "--target", "onnxruntime-cpu", "-o", new],
        "verify": ["verify", port, "--against", checkpoint, "--level", "weights"],
        "inspect": ["inspect", port],
        "compile": ["compile", port],
        "plan": ["plan", checkpoint, "--target", "nvidia-h100"],
        "targets": ["targets"],
    }[command]


# ------------------------------------------------------------------ targets


@pytest.mark.parametrize("name", [*devices(), "ascend-910b3"])
def test_everything_that_is_known_of_a_target_is_told(name: str) -> None:
    words, told = run("targets", name).out, run("targets", name, "--json").json()
    flat = "".join(words.split())  # a table folds what is long
    assert told["name"] == name
    for frontend in told["frontends"]:
        assert f"front end {frontend['name']}" in words
        for check in frontend["checks"]:
            assert "".join(check["reason"].split()[:4]) in flat
        for mapping in frontend["mappings"]:
            assert all(operator in flat for operator in mapping["operators"])
    assert "unknown" in words or "TB/s" in words or "GB/s" in words


# ------------------------------------------------------------------ options


def surface(command: Callable[..., object]) -> dict[str, tuple[str, object]]:
    """What a command takes, by its signature."""
    found, hints = {}, get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        kind, info = hints[name].__origin__, hints[name].__metadata__[0]
        is_argument = isinstance(info, typer.models.ArgumentInfo)
        given = [word for word in (info.default, *(info.param_decls or ())) if isinstance(word, str)]
        spelt = name.upper() if is_argument else " ".join(given or [f"--{name}"])
        words = "|".join(kind) if isinstance(kind, EnumType) else getattr(kind, "__name__", str(kind))
        found[spelt] = (words, MUST if parameter.default is parameter.empty else parameter.default)
    return found


def test_the_options_are_those_that_are_listed() -> None:
    commands = [command.callback for command in app.registered_commands]
    assert {command.__name__: surface(command) for command in commands if command} == OPTIONS
    assert app.registered_callback is not None
    assert app.registered_callback.callback is not None
    assert surface(app.registered_callback.callback) == {"--version": ("bool", False)}


@pytest.mark.parametrize("given", [[], ["--help"]])
def test_without_arguments_it_explains_itself(given: list[str]) -> None:
    found = run(*given)
    assert (found.code, found.err) == (0, "")
    assert all(command in found.out for command in OPTIONS)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["convrt"], "No such command 'convrt'"),
        (["convert"], "Missing argument"),
        (["convert", "x", "--target", "y"], "Missing option '-o'"),
        (["convert", "x", "-o", "z"], "Missing option '--target'"),
        (["convert", "x", "y", "--target", "t", "-o", "z"], "unexpected extra argument"),
        (["convert", "x", "--target", "t", "-o", "z", "--dtype", "float64"], "'float64' is not one of"),
        (["convert", "x", "--target", "t", "-o", "z", "--executor", "dask"], "'dask' is not one of"),
        (["verify", "x"], "Missing option '--against'"),
        (["verify", "x", "--against", "y", "--level", "bytes"], "'bytes' is not one of"),
        (["verify", "x", "--against", "y", "--tokens", "0"], "--tokens"),
        (["verify", "x", "--against", "y", "--tokens", "513"], "--tokens"),
        (["inspect", "--jsno"], "No such option: --jsno"),
    ],
)
def test_bad_usage_ends_like_any_other_error(given: list[str], says: str) -> None:
    refusal = run(*given).refusal()
    assert says in refusal
    command = given[0] if given[0] in OPTIONS else ""
    assert f"porter {command}".strip() + " --help" in refusal


# ------------------------------------------------------------------ one document


@pytest.mark.parametrize("command", OPTIONS)
def test_json_is_one_document_and_nothing_else(command: str, llama: Path, llama_port: Path, tmp_path: Path) -> None:
    found = run(*arguments(command, llama, llama_port, tmp_path / "port"), JSON)
    assert (found.code, found.err) == (0, "")
    document = found.json()
    assert document["schema_version"] == 1
    assert {*document} >= set(FIELDS[command].split())
    assert found.out == json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def test_the_document_of_a_conversion(llama: Path, tmp_path: Path) -> None:
    port = tmp_path / "port"
    found = run("convert", llama, "--target", "ascend-910b", "-o", port, JSON).json()
    facts = {"port": str(port), "target": "ascend-910b", "frontend": "cann-atc", "family": "llama", "attention": None}
    assert {name: found[name] for name in facts} == facts
    (graph,) = found["graphs"]
    assert {*graph} >= {"file", "phase", "inputs", "outputs", "nodes"}
    assert {*found["lowering"]} == {"kept", "mapped", "expanded"}
    assert [{*weight} for weight in found["weights"]] == [{"file", "bytes", "sha256"}]
    assert (port / found["weights"][0]["file"]).stat().st_size == found["weights"][0]["bytes"]
    assert found["seconds"] > 0
    assert found["peak_rss_bytes"] > 2**20


def test_the_document_of_a_verification(llama: Path, llama_port: Path) -> None:
    found = run("verify", llama_port, "--against", llama, "--tokens", 2, JSON).json()
    assert [level["name"] for level in found["levels"]] == ["weights", "semantics", "dtype", "distribution"]
    for level in found["levels"]:
        assert level["status"] == "pass"
        assert all({"name", "value", "limit", "status"} <= {*check} for check in level["checks"])


def test_the_documents_of_targets() -> None:
    listed = run("targets", JSON).json()["targets"]
    assert [target["name"] for target in listed] == sorted(devices())
    for target in listed:
        one = run("targets", target["name"], JSON).json()
        assert (one["schema_version"], one["title"]) == (1, target["title"])
        assert [frontend["name"] for frontend in one["frontends"]] == target["frontends"]
        assert all(frontend["sources"] for frontend in one["frontends"])
        assert run("targets", target["name"]).code == 0


def test_a_variant_and_a_file_of_one_s_own_are_told_of_as_well(tmp_path: Path) -> None:
    assert run("targets", "ascend-910b3", JSON).json()["soc"] == "Ascend910B3"
    path = tmp_path / "card.toml"
    path.write_text('name = "card"\ntitle = "a card"\nvendor = "me"\nfrontends = ["onnxruntime"]\n')
    told = run("targets", path, JSON).json()
    assert (told["name"], told["memory_bytes"], told["frontends"][0]["name"]) == ("card", None, "onnxruntime")
    assert "memory_bytes      unknown" in run("targets", path).out


def test_a_port_for_a_file_of_one_s_own(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    text = 'name = "card"\ntitle = "a card"\nvendor = "me"\nfrontends = ["onnxruntime"]\ndtypes = ["float16"]\n'
    path.write_text(text + '[sources]\ndtypes = "its manual"\n')
    result = run("convert", llama, "--target", path, "-o", tmp_path / "port", JSON).json()
    assert (result["target"], result["frontend"], result["dtype"]) == ("card", "onnxruntime", "float16")
    assert result["dtype_reason"] == "the most exact that card and onnxruntime both take"


@pytest.mark.parametrize("command", OPTIONS)
def test_in_words_progress_goes_to_stderr(command: str, llama: Path, llama_port: Path, tmp_path: Path) -> None:
    found = run(*arguments(command, llama, llama_port, tmp_path / "port"))
    assert found.code == 0
    assert found.out.strip()
    with pytest.raises(json.JSONDecodeError):
        json.loads(found.out)
    stages = {"convert": "building the graph", "verify": "comparing weights"}
    assert (stages[command] in found.err) if command in stages else found.err == ""


# ------------------------------------------------------------------ exit codes


def report(*checks: Check) -> ParityReport:
    return ParityReport("port", "checkpoint", "device", "float32", (Level("weights", checks),), None, 1.0)


@pytest.mark.parametrize(
    ("checks", "code", "words"),
    [
        ([Check("a", 0, 0, "pass")], 0, "parity holds"),
        ([Check("a", 0, 0, "pass"), Check("b", 7, 0, "fail", "c")], 1, "parity FAILS"),
        ([Check("a", float("nan"), 0, "inconclusive", "[red]why[/]")], 3, "inconclusive"),
    ],
)
@pytest.mark.parametrize("json_too", [[], [JSON]])
def test_the_exit_code_of_a_verdict(
    checks: list[Check], code: int, words: str, json_too: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("porter.verify.verify", lambda *_, **__: report(*checks))
    found = run("verify", "x", "--against", "y", *json_too)
    assert found.code == code
    if json_too:
        assert found.json()["passed"] is (code == 0)
    else:
        assert words in found.out
        assert all(check.detail in found.out for check in checks)


def raising(error: BaseException) -> Any:
    def convert(*_: object, **__: object) -> None:
        raise error

    return convert


@pytest.mark.parametrize("json_too", [[], [JSON]])
def test_an_interrupt_ends_with_130(json_too: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("porter.port.convert", raising(KeyboardInterrupt()))
    found = run("convert", "x", "--target", "y", "-o", "z", *json_too)
    assert (found.code, found.out, found.err) == (130, "", "interrupted\n")


def test_an_interrupt_before_anything_is_finished_leaves_nothing(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("porter.executors.local.write_weights", raising(KeyboardInterrupt()))
    found = run("convert", llama, "--target", "onnxruntime-cpu", "-o", tmp_path / "deep" / "port", JSON)
    assert (found.code, found.err) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_later_says_that_the_same_command_goes_on(
    llama: Path, llama_port: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["convert", llama, "--target", "onnxruntime-cpu", "-o", tmp_path / "deep" / "port", JSON]
    with monkeypatch.context() as patch:
        patch.setattr("porter.port.write_file", raising(KeyboardInterrupt()))
        found = run(*command)
    assert (found.code, found.err) == (130, "interrupted: the same command goes on where this one stopped\n")
    assert not (tmp_path / "deep" / "port").exists()
    assert run(*command).code == 0
    assert digests(tmp_path / "deep") == {f"port/{name}": digest for name, digest in digests(llama_port).items()}


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "[bold]no markup[/bold] [/]",
        "two\nlines",
        f"a bell \x07, {ESCAPE}[31mred{ESCAPE}[0m",
        "long " * 200,
        "中文 ünï",
    ],
)
def test_an_error_is_two_lines_whatever_it_says(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("porter.port.convert", raising(PortError(text + " message", text + " way out")))
    found = run("convert", "x", "--target", "y", "-o", "z", JSON)
    found.refusal()
    assert len(found.err.splitlines()) == 2
    assert "message" in found.err.splitlines()[0]
    assert "way out" in found.err.splitlines()[1]
    assert ESCAPE not in found.err
    assert "\x07" not in found.err
    assert "[bold]no markup[/bold] [/]" in found.err or "markup" not in text


# ------------------------------------------------------------------ true processes


def test_python_m_porter_is_porter(llama: Path, llama_port: Path) -> None:
    found = spawn("verify", llama_port, "--against", llama, "--level", "weights", JSON)
    assert (found.code, found.err, found.json()["passed"]) == (0, "", True)
    assert spawn("inspect", llama_port / "nothing").refusal()


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "xterm-256color", "COLORTERM": "truecolor"}])
def test_not_a_terminal_gets_no_escape_codes(environment: dict[str, str], llama: Path, tmp_path: Path) -> None:
    commands: list[list[object]] = [
        ["convert", llama, "--target", "onnxruntime-cpu", "-o", tmp_path / "port"],
        ["targets", "ascend-910b"],
        ["inspect", tmp_path / "port"],
        ["inspect", tmp_path],
    ]
    for command in commands:
        found = spawn(*command, environment=environment)
        assert ESCAPE not in found.out + found.err


def on_a_terminal(*given: object, **environment: str) -> tuple[int, str]:
    """Exit code and all output of a command whose stdout and stderr are a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "porter", *map(str, given)]
    settings = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color"} | environment
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=settings, cwd=ROOT) as process:
        os.close(theirs)
        data = b""
        while True:
            try:
                data += (new := os.read(ours, 65536))
            except OSError:  # the other end is closed
                break
            if not new:
                break
    os.close(ours)
    return process.returncode, data.decode()


def colours(text: str) -> set[str]:
    """The colours that escape codes of the text ask for: not bold or dim, nor what moves the cursor."""
    codes = {code for found in re.findall(r"\x1b\[([0-9;]*)m", text) for code in found.split(";")}
    return {code for code in codes if code[:1] in {"3", "4", "9"} and len(code) > 1}


def test_colour_is_for_terminals_and_can_be_refused() -> None:
    code, shown = on_a_terminal("inspect", "/nothing")
    assert (code, bool(colours(shown))) == (2, True)
    code, shown = on_a_terminal("inspect", "/nothing", NO_COLOR="1")
    assert (code, colours(shown)) == (2, set())
    assert "error:" in shown


def test_a_reader_that_leaves_is_no_traceback() -> None:
    command = f"{sys.executable} -m porter targets ascend-910b | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_control_c_ends_a_true_process_with_130(llama: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time, porter.port\n"
        "from porter.cli import main\n"
        "def write(*_, count, **__):\n"
        "    print('begun', file=sys.stderr, flush=True)\n"
        "    while True:\n"
        "        count(0)\n"
        "        time.sleep(0.01)\n"
        "porter.executors.local.write_weights = write\n"
        "main(sys.argv[1:])\n"
    )
    given = ["convert", llama, "--target", "onnxruntime-cpu", "-o", tmp_path / "port", JSON]
    command = [sys.executable, "-c", program, *map(str, given)]
    before = digests(llama)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert list(tmp_path.iterdir()) == []
    assert digests(llama) == before
