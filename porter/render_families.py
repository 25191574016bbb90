"""The families that are known, as text: one table of them all, and the same as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from porter.render import print_rows

COLUMNS = ["family", "model_type", "attention", "experts", "cache"]


def print_families(result: Mapping[str, Any]) -> None:
    """One row each; the cache in numbers for each token, all layers together, at the sizes of its default config."""
    print_rows("families", COLUMNS, [cells(row) for row in result["families"]])


def cells(row: Mapping[str, Any]) -> list[object]:
    """What a row says, in the order of COLUMNS."""
    window = f"; windows of {row['window']}" if row["window"] else ""
    return [
        row["family"],
        ", ".join(row["model_types"]),
        "; ".join(row["attention"]) + window,
        _experts(row["experts"]),
        f"{row['cache_per_token']:,}",
    ]


def _experts(experts: Mapping[str, Any] | None) -> str:
    if experts is None:
        return "none"
    return f"{experts['per_token']} of {experts['count']}" + (" and shared" if experts["shared"] else "")


def page(result: Mapping[str, Any], lowering: Mapping[str, str], verified: str, reading: Mapping[str, str]) -> str:
    """The same as Markdown: with what each is about (`reading`) and which front ends take it (`lowering`)."""
    rows = [[*map(str, cells(row)), lowering[row["family"]]] for row in result["families"]]
    about = [f"- `{name}`: {words}" for name, words in reading.items()]
    return "\n".join(
        [
            "# Families",
            "",
            "Written by `python tests/families_page.py`; not by hand.",
            "",
            f"Each is compared with the class that {verified} has for its `model_type`, on a random model in miniature",
            "(`samples/`): prefill, decode, chunks through the cache, padding. Sizes are those of its default config;",
            "the cache is in numbers per token, all layers together.",
            "",
            *_table([*COLUMNS, "front ends"], rows),
            "",
            *about,
            "",
        ]
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(columns), ["---"] * len(columns), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
