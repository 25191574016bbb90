"""The names of dtypes as TOML writes them, and groups of them."""

from __future__ import annotations

from collections.abc import Mapping

from porter.errors import known_names
from porter.target.table import Table

FLOATS = ("float32", "float16", "bfloat16")  # what `--dtype` can ask for
DTYPES = frozenset(
    {*FLOATS, "float64", "bool", "string", "complex64", "complex128"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (2, 4, 8, 16, 32, 64)}
    | {"float4e2m1", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float8e8m0"}
)
RATES = DTYPES | {"tf32"}  # a way to multiply float32, not a dtype of tensors

Groups = Mapping[str, frozenset[str]]


def read_groups(table: Table) -> Groups:
    """Read the names that stand for several dtypes, so that a row of the operator table stays one line."""
    for name in table:
        if name in DTYPES:
            raise table.refusal(name, "is a dtype already", "call the group otherwise: a name means one thing")
    return {name: _dtypes(table, name, {}) for name in table}


def read_types(table: Table, groups: Groups) -> dict[str, frozenset[str]]:
    """Read which dtypes are taken for each type parameter or input."""
    return {parameter: _dtypes(table, parameter, groups) for parameter in table}


def _dtypes(table: Table, key: str, groups: Groups) -> frozenset[str]:
    dtypes: set[str] = set()
    for name in table.texts(key):
        if name not in DTYPES and name not in groups:
            raise table.refusal(key, f"names '{name}', which is no dtype", known_names(name, DTYPES | groups.keys()))
        dtypes |= groups.get(name, {name})
    return frozenset(dtypes)
