"""A TOML table that is read key by key, knows where it stands, and refuses what does not belong."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from porter.errors import TargetError, known_names

T = TypeVar("T")
Number = TypeVar("Number", int, float)

LARGEST = 1e30  # no card has more of anything

WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "a truth value",
    list: "a list",
    dict: "a table",
}


class Table:
    """A table of a file, with the place where it stands."""

    def __init__(self, where: str, data: Mapping[str, object]) -> None:
        self.where = where
        self.data = data

    @classmethod
    def open(cls, path: Path) -> Table:
        try:
            return cls(str(path), tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise TargetError(
                f"{path}: {getattr(error, 'strerror', None) or error}", "a target is a TOML file in UTF-8"
            ) from error

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def only(self, known: Iterable[str]) -> Table:
        """Refuse every other key, before a wrong one shows as the lack of the right one."""
        known = set(known)
        for key in self:
            if key not in known:
                raise TargetError(f"{self.where}: no key is called '{key}'", known_names(key, known))
        return self

    def get(self, key: str, kind: type[T]) -> T | None:
        value = self.data.get(key)
        if kind is float and type(value) is int:
            value = float(value)
        if value is None:
            return None
        if type(value) is not kind:  # not isinstance, for which True is a whole number
            problem = f"is {WORDS.get(type(value), 'a date')}, not {WORDS[kind]}"
            raise self.refusal(key, problem, f"write {WORDS[kind]}")
        if value in ("", []):
            raise self.refusal(key, "is empty", "say it, or leave the key out")
        return value

    def need(self, key: str, kind: type[T]) -> T:
        value = self.get(key, kind)
        if value is None:
            raise self.refusal(key, "is missing", f"it must be given: {WORDS[kind]}")
        return value

    def positive(self, key: str, kind: type[Number]) -> Number | None:
        value = self.get(key, kind)
        if value is not None and not 0 < value < LARGEST:
            shown = f"is {value}" if abs(value) < LARGEST else "is beyond all measure"
            raise self.refusal(key, shown, "it is more than 0; leave it out where it is unknown")
        return value

    def span(self, key: str) -> tuple[int, int]:
        """Two whole numbers, the lower first."""
        ends: list[object] = self.need(key, list)
        match ends:
            case [int(low), int(high)] if bool not in map(type, ends) and low <= high:
                return low, high
        raise self.refusal(key, f"is {ends}", "write [lowest, highest]")

    def texts(self, key: str) -> tuple[str, ...]:
        values: list[object] = self.need(key, list)
        for index, value in enumerate(values):
            if type(value) is not str or not value:
                raise self.refusal(key, f"holds {value!r}", "every entry is text")
            if value in values[:index]:
                raise self.refusal(key, f"names '{value}' twice", "name it once")
        return tuple(str(value) for value in values)

    def table(self, key: str) -> Table:
        return Table(f"{self.where}: {key}", self.get(key, dict) or {})

    def tables(self, key: str) -> list[Table]:
        found = []
        for number, entry in enumerate(self.get(key, list) or [], start=1):
            if not isinstance(entry, dict):
                raise self.refusal(key, f"holds {entry!r}", "every entry is a table")
            found.append(Table(f"{self.where}: {key} {number}", entry))
        return found

    def name(self, path: Path) -> str:
        name = self.need("name", str)
        if name != path.stem:
            raise self.refusal("name", f"is '{name}'", f"the file must be {name}.toml: it is found by its name")
        return name

    def sources(self, facts: Iterable[str]) -> dict[str, str]:
        """Read where each fact was read: a fact has a source, and a source a fact."""
        sources = self.table("sources")
        stated = [fact for fact in facts if fact in self]
        for fact in sources:
            if fact not in stated:
                raise sources.refusal(fact, "is no fact that is stated here", known_names(fact, stated))
        return {fact: sources.need(fact, str) for fact in stated}

    def refusal(self, key: str, problem: str, hint: str) -> TargetError:
        return TargetError(f"{self.where}: {key} {problem}", hint)


def refuse_twice(table: Table, name: str, seen: Iterable[str]) -> None:
    """Raises TargetError for a name that was there before."""
    if name in seen:
        raise table.refusal("name", f"'{name}' stands there twice", "say it once: one of the two would be ignored")
