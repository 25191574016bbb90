"""The pipelines in samples/ci: that they can be read, and that porter takes what they ask of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import tiny
import typer
import yaml
from command import ROOT

from porter.cli import app

SAMPLES = ROOT / "samples" / "ci"
FORMS = ("json", "xml", "html")  # of a report, in every pipeline


def scripts(sample: str) -> list[str]:
    """What a pipeline gives to shells, in order."""
    text = (SAMPLES / sample).read_text()
    if sample == "Jenkinsfile":
        found = re.findall(r"(?:sh|script:) (?:'''(.*?)'''|'(.*?)'|\"(.*?)\")", text, re.DOTALL)
        return ["".join(groups) for groups in found]
    read: dict[str, Any] = yaml.safe_load(text)
    jobs = read.get("jobs", {"port": read.get("port")})
    steps = jobs["port"].get("steps", [{"run": line} for line in jobs["port"].get("script", [])])
    return [step["run"] for step in steps if "run" in step]


def porter_commands(sample: str) -> list[list[str]]:
    """The words of each call of porter."""
    lines = "\n".join(scripts(sample)).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.strip().startswith("porter ")]


@pytest.mark.parametrize("sample", sorted(path.name for path in SAMPLES.iterdir()))
def test_porter_takes_what_a_pipeline_asks(sample: str) -> None:
    found = {}
    for name, *arguments in porter_commands(sample):
        command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
        found[name] = command.make_context(name, arguments).params  # raises where an option is not there
    assert list(found) == ["convert", "verify"]
    assert found["convert"]["output"] == found["verify"]["port"]
    assert found["convert"]["checkpoint"] == found["verify"]["against"] == Path("$CHECKPOINT")
    suffixes = {path.suffix for path in found["verify"]["files"]}
    assert {f".{form}" for form in FORMS} <= suffixes
    assert "pip install 'porter[verify]'" in scripts(sample)
    assert "PORTER_CACHE" in (SAMPLES / sample).read_text()


def test_a_pipeline_runs_and_runs_again(tmp_path: Path) -> None:
    """GitLab's: its commands in a folder of each run, with the cache of the one before."""
    checkpoint = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample("llama", num_hidden_layers=1))
    porter = tmp_path / "bin" / "porter"
    porter.parent.mkdir()
    porter.write_text(f'#!/bin/sh\nexec {sys.executable} -m porter "$@"\n')
    porter.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{porter.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "CHECKPOINT": str(checkpoint),
        "TARGET": "onnxruntime-cpu",
        "PORTER_CACHE": str(tmp_path / "cache"),
    }
    script = "\n".join(line for line in scripts("gitlab-ci.yml") if not line.startswith("pip install"))
    documents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        subprocess.run(["bash", "-ec", script], cwd=tmp_path / name, env=environment, check=True, capture_output=True)
        reports = tmp_path / name / "reports"
        assert {path.name for path in reports.iterdir()} == {f"verdict.{form}" for form in FORMS}
        documents.append(json.loads((reports / "verdict.json").read_text()))
        assert ElementTree.parse(reports / "verdict.xml").getroot().tag == "testsuites"
    assert [document["status"] for document in documents] == ["pass", "pass"]
    assert [document["recorded"] is None for document in documents] == [True, False]
    assert documents[0]["levels"] == documents[1]["levels"]
