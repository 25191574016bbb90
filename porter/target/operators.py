"""The operators of ONNX that a front end takes: a table row by row, the whole standard, or what is assumed."""

from __future__ import annotations

import re
from collections.abc import Mapping

from porter.errors import known_names
from porter.target.data import Row
from porter.target.dtypes import Groups, read_types
from porter.target.folder import shipped
from porter.target.table import Table

Operators = Mapping[str, tuple[Row, ...]]


def read_operators(table: Table, groups: Groups) -> Operators | None:
    """Read the operator table; the word "standard" in its place is None: all of ONNX at the opset.

    Where the vendor publishes none, `assumed` names the list that stands in.
    """
    if "operators" not in table:
        return _assumed(table)
    if "assumed" in table:
        raise table.refusal("assumed", "stands beside operators", "a list that is known need not be assumed")
    if table.data["operators"] == "standard":
        return None
    table.need("operators", dict)
    below = table.table("operators")
    return {name: tuple(_row(row, groups) for row in below.tables(name)) for name in below}


def read_notes(table: Table, operators: Operators | None) -> dict[str, str]:
    """What single operators ask beyond opset, dtype and rank."""
    for name in table:
        if operators is not None and name not in operators:
            raise table.refusal(name, "is not in the operator table", known_names(name, operators))
    return {name: table.need(name, str) for name in table}


def _assumed(table: Table) -> Operators:
    lists = {path.stem: path for path in shipped("operators")}
    name = table.get("assumed", str)
    if name is None:
        hint = f'write [operators], operators = "standard", or assumed = "{min(lists)}" where none is published'
        raise table.refusal("operators", "is missing", hint)
    if name not in lists:
        raise table.refusal("assumed", f"is '{name}', which is no list", known_names(name, lists))
    found = Table.open(lists[name]).only(("operators", "source"))
    found.need("source", str)
    return {operator: (Row(((1, 99),), {}),) for operator in found.texts("operators")}


def _row(table: Table, groups: Groups) -> Row:
    opsets = _spans(table.only(("opsets", "types", "ranks")), "opsets", table.need("opsets", str))
    ranks = table.get("ranks", str)
    if ranks is not None and len(_spans(table, "ranks", ranks)) > 1:
        raise table.refusal("ranks", f"is '{ranks}'", "write one range, as '1-6'")
    return Row(opsets, read_types(table.table("types"), groups), _spans(table, "ranks", ranks)[0] if ranks else None)


def _spans(table: Table, key: str, text: str) -> tuple[tuple[int, int], ...]:
    parts = [part.partition("-") for part in text.split(", ")]
    if not all(re.fullmatch(r"\d{1,4}(-\d{1,4})?", "".join(part)) for part in parts):
        raise table.refusal(key, f"is '{text}'", "write '8-18', or '8, 12-18' where there is a gap")
    spans = tuple((int(low), int(high or low)) for low, _, high in parts)
    if any(low > high for low, high in spans):
        raise table.refusal(key, f"is '{text}'", "a range runs upwards")
    return spans
