"""Reads the TOML of a front end."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Literal

from porter.errors import known_names
from porter.target.custom import read_custom_operators, read_mappings
from porter.target.data import Check, Frontend, Row
from porter.target.dtypes import FLOATS, Groups, read_groups, read_types
from porter.target.table import Table, refuse_twice

FACTS = ("opset", "ir_version", "dtypes", "minimum_past", "operators", "command")
KEYS = (
    {field.name for field in fields(Frontend)} - {"checks", "custom_operators", "mappings"}
    | {"check", "custom_operator", "mapping", "dtype_groups"}
)  # fmt: skip
PLACEHOLDERS = ("model", "output", "soc", "input_shape")


def read_frontend(path: Path) -> Frontend:
    """A front end from its TOML. Raises TargetError for what is missing, unknown or contradictory."""
    table = Table.open(path).only(KEYS)
    groups = read_groups(table.table("dtype_groups"))
    operators = _operators(table, groups)
    customs = read_custom_operators(table.tables("custom_operator"), groups)
    return Frontend(
        name=table.name(path),
        title=table.need("title", str),
        vendor=table.need("vendor", str),
        opset=table.need("opset", int),
        opset_range=_opset_range(table),
        opset_rule=_opset_rule(table),
        ir_version=table.need("ir_version", int),
        dtypes=_dtypes(table),
        minimum_past=_minimum_past(table),
        passes=table.texts("passes"),
        checks=_checks(table.tables("check")),
        operators=operators,
        operator_notes=_notes(table.table("operator_notes"), operators),
        custom_operators=customs,
        mappings=read_mappings(table.tables("mapping"), customs, groups),
        command=_command(table),
        sources=table.sources(FACTS),
    )


def _opset_range(table: Table) -> tuple[int, int]:
    opset, span = table.need("opset", int), table.need("opset_range", list)
    if len(span) != 2 or any(type(end) is not int for end in span) or span[0] > span[1]:
        raise table.refusal("opset_range", f"is {span}", "write [lowest, highest]")
    low, high = span
    if not low <= opset <= high:
        hint = "porter writes this opset, so the front end must take it"
        raise table.refusal("opset", f"{opset} lies outside opset_range [{low}, {high}]", hint)
    return low, high


def _opset_rule(table: Table) -> Literal["model", "since_version"]:
    match table.need("opset_rule", str):
        case "model":
            return "model"
        case "since_version":
            return "since_version"
        case rule:
            raise table.refusal("opset_rule", f"is '{rule}'", known_names(rule, ("model", "since_version")))


def _dtypes(table: Table) -> tuple[str, ...]:
    dtypes = table.texts("dtypes")
    for dtype in dtypes:
        if dtype not in FLOATS:
            raise table.refusal("dtypes", f"names '{dtype}', in which no port is", known_names(dtype, FLOATS))
    return dtypes


def _minimum_past(table: Table) -> int:
    past = table.need("minimum_past", int)
    if past < 0:
        hint = "it counts cache positions: 1 where no tensor may be empty, else 0"
        raise table.refusal("minimum_past", f"is {past}", hint)
    return past


def _command(table: Table) -> str | None:
    command = table.get("command", str)
    try:
        asked = [field for _, field, _, _ in string.Formatter().parse(command or "") if field is not None]
    except ValueError as error:
        raise table.refusal("command", f"is no template: {error}", "a brace of its own is doubled") from error
    for field in asked:
        if field not in PLACEHOLDERS:
            raise table.refusal("command", f"asks for '{{{field}}}'", known_names(field, PLACEHOLDERS))
    return command


def _checks(tables: list[Table]) -> tuple[Check, ...]:
    checks: dict[str, Check] = {}
    for table in tables:
        table.only(field.name for field in fields(Check))
        check = Check(table.need("name", str), table.need("reason", str), table.need("source", str))
        refuse_twice(table, check.name, checks)
        checks[check.name] = check
    return tuple(checks.values())


def _operators(table: Table, groups: Groups) -> dict[str, tuple[Row, ...]] | None:
    """Read the operator table; the word "standard" in its place is None: all of ONNX at the opset."""
    if table.data.get("operators") == "standard":
        return None
    table.need("operators", dict)
    below = table.table("operators")
    return {name: tuple(_row(row, groups) for row in below.tables(name)) for name in below}


def _row(table: Table, groups: Groups) -> Row:
    text = table.only(("opsets", "types")).need("opsets", str)
    spans = [part.partition("-") for part in text.split(", ")]
    if not all(re.fullmatch(r"\d+(-\d+)?", "".join(span)) for span in spans):
        raise table.refusal("opsets", f"is '{text}'", "write '8-18', or '8, 12-18' where there is a gap")
    opsets = tuple((int(low), int(high or low)) for low, _, high in spans)
    if any(low > high for low, high in opsets):
        raise table.refusal("opsets", f"is '{text}'", "a range runs upwards")
    return Row(opsets, read_types(table.table("types"), groups))


def _notes(table: Table, operators: Mapping[str, object] | None) -> dict[str, str]:
    for name in table:
        if operators is not None and name not in operators:
            raise table.refusal(name, "is not in the operator table", known_names(name, operators))
    return {name: table.need(name, str) for name in table}
