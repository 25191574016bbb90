"""The published schema says exactly what the document is: a field that it does not list fails these tests."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, run
from jsonschema import Draft202012Validator
from surgery import weight_of
from verdicts import EVERY

SCHEMA = json.loads((ROOT / "docs" / "verify.schema.json").read_text())


def flaws(document: object) -> list[str]:
    return [error.message for error in Draft202012Validator(SCHEMA).iter_errors(document)]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", EVERY)
def test_documents_made_by_hand(name: str) -> None:
    document = EVERY[name]().to_json()
    assert flaws(document) == []


def test_the_document_of_a_sound_port(deepseek: Path, deepseek_port: Path) -> None:
    found = run("verify", deepseek_port, "--against", deepseek, "--tokens", 2, "--json")
    document = found.json()
    assert (found.code, flaws(document)) == (0, [])
    assert document["figures"]["experts"]
    assert document["figures"]["errors"]
    assert document["figures"]["positions"]


def test_the_document_of_a_port_that_fails(deepseek: Path, deepseek_port: Path, tmp_path: Path) -> None:
    port = Path(shutil.copytree(deepseek_port, tmp_path / "port"))
    with weight_of(port, "model.layers.1.mlp.experts.down_proj") as weight:
        weight[[2, 7]] = weight[[7, 2]]
    found = run("verify", port, "--against", deepseek, "--level", "semantics", "--tokens", 2, "--json")
    assert (found.code, flaws(found.json())) == (1, [])


def test_the_document_of_a_slice(llama: Path, llama_port: Path) -> None:
    given = ["verify", llama_port, "--against", llama, "--level", "semantics", "--tokens", 2]
    found = run(*given, "--layers", "0-1", "--json").json()
    assert (found["slice"], flaws(found)) == ([0, 1], [])


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "an unknown field": lambda d: d.update(extra=1),
    "a field that is gone": lambda d: d.pop("kl"),
    "a status that is none": lambda d: d.update(status="passed"),
    "an unknown field of a check": lambda d: d["levels"][0]["checks"][0].update(extra=1),
    "a value that is a word": lambda d: d["levels"][0]["checks"][0].update(value="many"),
    "a side without its error": lambda d: d["levels"][2]["checks"][0].pop("port_standard_error"),
    "an interval of one end": lambda d: d["levels"][2]["checks"][0].update(interval=[1.0]),
    "a limit for what is told": lambda d: d["levels"][2]["checks"][1].update(limit=1.0),
    "an unknown figure": lambda d: d["figures"].update(extra=[]),
    "an error without its ratio": lambda d: d["figures"]["errors"][0].pop("ratio"),
    "half an expert": lambda d: d["figures"]["experts"][0].update(port=[0.5]),
    "a position of no text": lambda d: d["figures"].update(positions=[{"position": 1, "port": 1.0, "original": 1.0}]),
    "another version": lambda d: d.update(schema_version=2),
    "a digest that is cut": lambda d: d["prompts"].update(sha256="0f"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_document_does_not_fit(name: str) -> None:
    document = copy.deepcopy(EVERY["passed"]().to_json())
    assert flaws(document) == []
    BROKEN[name](document)
    assert flaws(document) != []


def test_every_field_is_described() -> None:
    assert [name for name, field in fields(SCHEMA) if not field.get("description")] == []


def fields(schema: object) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        properties = schema.get("properties", {}) if "additionalProperties" in schema else {}
        yield from properties.items()
    children = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for child in children:
        yield from fields(child)
