"""Reads the TOML of a front end."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Literal

from porter.errors import known_names
from porter.target.compile import read_compile
from porter.target.custom import read_custom_operators, read_mappings
from porter.target.data import Check, Frontend
from porter.target.dtypes import FLOATS, read_groups
from porter.target.folder import shipped
from porter.target.operators import read_notes, read_operators
from porter.target.table import Table, refuse_twice

FACTS = (
    "opset", "ir_version", "dtypes", "minimum_past", "shapes", "gears_limit", "max_rank", "max_model_bytes",
    "external_data", "operators",
)  # fmt: skip
KEYS = (
    {field.name for field in fields(Frontend)} - {"checks", "custom_operators", "mappings"}
    | {"check", "custom_operator", "mapping", "dtype_groups"}
)  # fmt: skip
LIKE = "like"
SHAPES = ("dynamic", "ranges", "gears", "static")


def read_frontend(path: Path) -> Frontend:
    """A front end from its TOML. Raises TargetError for what is missing, unknown or contradictory."""
    table = Table.open(path)
    table.name(path)
    return frontend_of(table)


def frontend_of(table: Table) -> Frontend:
    """A front end from its table, wherever that stands. Raises TargetError as `read_frontend` does."""
    table = _whole(table.only({*KEYS, LIKE}))
    groups = read_groups(table.table("dtype_groups"))
    operators = read_operators(table, groups)
    customs = read_custom_operators(table.tables("custom_operator"), groups)
    return Frontend(
        name=table.need("name", str),
        title=table.need("title", str),
        vendor=table.need("vendor", str),
        opset=table.need("opset", int),
        opset_range=_opset_range(table),
        opset_rule=_opset_rule(table),
        ir_version=table.need("ir_version", int),
        dtypes=_dtypes(table),
        minimum_past=_minimum_past(table),
        shapes=_shapes(table),
        gears_limit=table.span("gears_limit") if "gears_limit" in table else None,
        max_rank=table.positive("max_rank", int),
        max_model_bytes=table.positive("max_model_bytes", int),
        external_data=table.get("external_data", bool),
        passes=table.texts("passes"),
        checks=_checks(table.tables("check")),
        operators=operators,
        assumed="operators" not in table,
        operator_notes=read_notes(table.table("operator_notes"), operators),
        custom_operators=customs,
        mappings=read_mappings(table.tables("mapping"), customs, groups),
        compile=read_compile(table.table("compile")) if "compile" in table else None,
        notes=table.texts("notes") if "notes" in table else (),
        sources=table.sources(FACTS),
    )


def _whole(table: Table) -> Table:
    """What the table says, and for what it leaves out what the front end says that it is `like`."""
    name = table.get(LIKE, str)
    if name is None:
        return table
    known = {path.stem: path for path in shipped("frontends")}
    if name not in known:
        raise table.refusal(LIKE, f"names '{name}', which is none", known_names(name, known))
    base = Table.open(known[name]).data
    if LIKE in base:
        raise table.refusal(LIKE, f"names '{name}', which is like another itself", "name that one")
    sources = {**Table("", base).table("sources").data, **table.table("sources").data}
    own = {key: value for key, value in table.data.items() if key != LIKE}
    return Table(table.where, {**base, **own, "sources": sources})


def _opset_range(table: Table) -> tuple[int, int]:
    opset, (low, high) = table.need("opset", int), table.span("opset_range")
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


def _shapes(table: Table) -> tuple[str, ...]:
    shapes = table.texts("shapes")
    for shape in shapes:
        if shape not in SHAPES:
            raise table.refusal("shapes", f"names '{shape}'", known_names(shape, SHAPES))
    if "gears_limit" in table and "gears" not in shapes:
        raise table.refusal("gears_limit", "is given, but shapes has no 'gears'", "add it, or leave the limit out")
    return shapes


def _minimum_past(table: Table) -> int:
    past = table.need("minimum_past", int)
    if past < 0:
        hint = "it counts cache positions: 1 where no tensor may be empty, else 0"
        raise table.refusal("minimum_past", f"is {past}", hint)
    return past


def _checks(tables: list[Table]) -> tuple[Check, ...]:
    checks: dict[str, Check] = {}
    for table in tables:
        table.only(field.name for field in fields(Check))
        check = Check(table.need("name", str), table.need("reason", str), table.need("source", str))
        refuse_twice(table, check.name, checks)
        checks[check.name] = check
    return tuple(checks.values())
