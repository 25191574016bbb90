"""The vendor's own command line: what a front end's TOML says of it under [compile]."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, fields

from porter.errors import known_names
from porter.target.table import Table

PLACEHOLDERS = ("model", "output", "soc", "input_shape", "input_shapes", "gears", "dtype")
GEARS_PLACEHOLDERS = ("dynamic_dims",)


@dataclass(frozen=True)
class Compile:
    """How the vendor's compiler is called, what it writes, and how its log tells that it refused."""

    tools: tuple[str, ...]  # programs on PATH; `python:NAME` is a module that the python on PATH imports
    command: str  # a template of shell, for one graph
    gears: str | None  # what takes the place of {gears} where a graph has some
    version: str | None  # a command that prints the tool's version
    products: tuple[str, ...]  # templates of the files that it writes
    refusals: tuple[str, ...]  # regular expressions: one that matches the log is a refusal, whatever the exit code
    source: str


def read_compile(table: Table) -> Compile:
    """The table [compile]. Raises TargetError for what is missing, unknown or no template."""
    table.only(field.name for field in fields(Compile))
    return Compile(
        tools=table.texts("tools"),
        command=_template(table, "command", table.need("command", str), PLACEHOLDERS),
        gears=_gears(table),
        version=table.get("version", str),
        products=tuple(_template(table, "products", text, PLACEHOLDERS) for text in _texts(table, "products")),
        refusals=_patterns(table),
        source=table.need("source", str),
    )


def _texts(table: Table, key: str) -> tuple[str, ...]:
    return table.texts(key) if key in table else ()


def _gears(table: Table) -> str | None:
    gears = table.get("gears", str)
    if gears is None:
        return None
    if "{gears}" not in table.need("command", str):
        raise table.refusal("gears", "has no place in the command", "write {gears} where it belongs")
    return _template(table, "gears", gears, GEARS_PLACEHOLDERS)


def _template(table: Table, key: str, text: str, known: tuple[str, ...]) -> str:
    try:
        asked = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
    except ValueError as error:
        raise table.refusal(key, f"is no template: {error}", "a brace of its own is doubled") from error
    for field in asked:
        if field not in known:
            raise table.refusal(key, f"asks for '{{{field}}}'", known_names(field, known))
    return text


def _patterns(table: Table) -> tuple[str, ...]:
    patterns = _texts(table, "refusals")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise table.refusal("refusals", f"holds '{pattern}': {error}", "write a regular expression") from error
    return patterns
