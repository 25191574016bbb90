"""The only place that prints: tables and one JSON document to stdout, progress and errors to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from porter.errors import PorterError

STATUS = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "measured": "dim"}


def out() -> Console:
    """stdout, at its present width; colour only on a terminal, and NO_COLOR is honoured."""
    return Console(soft_wrap=False, highlight=False)


def err() -> Console:
    """Stderr."""
    return Console(stderr=True, highlight=False)


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document and nothing else."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_error(error: PorterError) -> None:
    """What is wrong, and the way out."""
    err().print(f"[bold red]error:[/] {_line(error.message)}", soft_wrap=True)
    if error.hint:
        err().print(f"[bold]hint:[/] {_line(error.hint)}", soft_wrap=True)


def _line(text: str) -> str:
    """One line, without what a terminal would act on: names of files and tensors are anybody's."""
    return escape("".join(c if c.isprintable() else " " for c in text))


def print_commands(lines: Sequence[str]) -> None:
    """Lines for the program that runs this one, on stderr as they are: a runner of CI reads both streams."""
    sys.stderr.write("".join(f"{line}\n" for line in lines))


def print_pairs(title: str, pairs: Mapping[str, object]) -> None:
    """A short list of facts."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, escape(str(value)))
    out().print(table)


def print_rows(title: str, columns: list[str], rows: list[list[object]]) -> None:
    """A table to compare by."""
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])  # names stay whole, to be copied
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    out().print(table)


def print_parity(report: Mapping[str, Any]) -> None:
    """The verdict of `porter verify`: plain checks one below the other, scenarios as a grid, what was measured with its
    errors, what failed in words.
    """
    checks = [(level["name"], check) for level in report["levels"] for check in level["checks"]]
    plain = Table(
        title=f"{escape(report['port'])} against {escape(report['against'])}", title_justify="left", header_style="bold"
    )
    for column in ("level", "check", "value", "limit", "status"):
        plain.add_column(column, overflow="fold")
    grid: dict[str, dict[str, str]] = {}
    for level, check in checks:
        scenario, _, quantity = check["name"].partition(": ")
        if level == "semantics" and quantity:
            grid.setdefault(scenario, {})[quantity] = f"[{STATUS[check['status']]}]{_value(check)}[/]"
        elif "port" not in check:
            limit = "" if check["limit"] is None else f"{check['limit']:g}"
            plain.add_row(level, escape(check["name"]), _value(check), limit, _status(check["status"]))
    if plain.row_count:
        out().print(plain)
    if grid:
        _print_grid(grid)
    for level in report["levels"]:
        _print_measured(level["name"], [check for check in level["checks"] if "port" in check], report["dtype"])
    for level, check in checks:
        if check["status"] in {"fail", "inconclusive"}:
            found = f"{check['name']} = {_value(check)}; {check['detail']}"
            out().print(f"{_status(check['status'])} {level}: {escape(found)}", soft_wrap=True)
    _print_verdict(report)


def _print_measured(level: str, checks: Sequence[Mapping[str, Any]], dtype: str) -> None:
    """Port and original side by side, each with its standard error over prompts, and the ratio where it is judged."""
    judged = [check for check in checks if check["limit"] is not None]
    told = [check for check in checks if check["limit"] is None]
    title = f"{level}: off from float64, both in {dtype}"
    _print_sides(title, ["ratio", "95 %", "limit"], judged)
    prices = [check for check in told if check["name"].startswith("cost: ")]
    _print_sides("told, not judged: off from the original as it is", [], prices)
    _print_sides("told, not judged: too little for a ratio", [], [check for check in told if check not in prices])


def _print_sides(title: str, columns: list[str], checks: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("measure", no_wrap=True)
    for column in ("port", "original", *columns):
        table.add_column(column, overflow="fold", justify="right")
    for check in checks:
        table.add_row(*_cells(check))
    if checks:
        out().print(table)


def _cells(check: Mapping[str, Any]) -> list[str]:
    digits = 5 if check["limit"] is None else 3
    sides = [_with_error(check[side], check[f"{side}_standard_error"], digits) for side in ("port", "original")]
    if check["limit"] is None:
        return [escape(check["name"].removeprefix("cost: ")), *sides]
    low, high = map(float, check["interval"])
    ratio = f"[{STATUS[check['status']]}]{_value(check)}[/]"
    return [escape(check["name"]), *sides, ratio, f"{low:.2f}…{high:.2f}", f"{check['limit']:g}"]


def _with_error(value: float | str, error: float | str, digits: int) -> str:
    """The standard error in percent of the value; numbers that JSON has not come with their names."""
    value, error = float(value), float(error)
    percent = abs(100 * error / value) if value else 0.0
    return f"{value:.{digits}g} ±{percent:.{0 if percent >= 1 else 1}f}%"


def _print_grid(grid: Mapping[str, Mapping[str, str]]) -> None:
    columns = list(dict.fromkeys(q for row in grid.values() for q in row))
    title = "error of the port / of the original, in float32 against float64 (at most 10)"
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in ("scenario", *columns):
        table.add_column(column, overflow="fold", justify="left" if column == "scenario" else "right")
    for scenario, row in grid.items():
        table.add_row(escape(scenario), *(row.get(column, "") for column in columns))
    out().print(table)


def _print_verdict(report: Mapping[str, Any]) -> None:
    if report["max_abs_error"] is not None:
        greedy = "equal" if report["greedy_match"] else "not equal"
        near = f"max error {report['max_abs_error']:.2e}, cosine {report['cosine']:.12f}, KL {report['kl']:.1e}"
        out().print(f"logits: {near}; greedy tokens {greedy}", soft_wrap=True)
    if report["located"]:
        out().print(f"[bold]first fault:[/] {escape(_place(report['located']))}", soft_wrap=True)
    for note in report["notes"]:
        out().print(f"note: {escape(note)}", soft_wrap=True)
    verdict = {"pass": "parity holds", "fail": "parity FAILS", "inconclusive": "inconclusive"}[report["status"]]
    *others, last = (level["name"] for level in report["levels"])
    levels = f"{', '.join(others)} and {last}" if others else last
    where = f"at {levels} for {escape(report['target'])} in {report['dtype']} ({report['seconds']:.1f} s)"
    out().print(f"[{STATUS[report['status']]}]{verdict}[/] {where}")


def _place(found: Mapping[str, Any]) -> str:
    """Where the first fault is, and by how much."""
    parts = [None if found["layer"] is None else f"layer {found['layer']}", found["block"]]
    where = ", ".join(filter(None, parts)) or found["quantity"]
    value = f" ({found['value']} in {found['graph']})" if found["value"] else ""
    by = f"{_value({'value': found['ratio']})} " + ("times the original's own error" if found["limit"] else "differ")
    saved = f"; to run it alone: porter verify {found['folder']} --replay" if found["folder"] else ""
    return f"{where}{value} in {found['scenario']}: {by}{saved}"


def _value(check: Mapping[str, Any]) -> str:
    return check["value"] if isinstance(check["value"], str) else f"{check['value']:.3g}"


def _status(status: str) -> str:
    return f"[{STATUS[status]}]{status}[/]"


def print_inspection(result: Mapping[str, Any]) -> None:
    """What `porter inspect` found."""
    share = result["active_parameters"] / result["parameters"]
    facts = {
        "family": f"{result['family']} (model_type {result['model_type']})",
        "parameters": f"{result['parameters']:,}, {result['active_parameters']:,} active per token ({share:.0%})",
        "layers": result["layers"],
        "dtype": result["dtype"],
        "bytes": size(result["bytes"]),
        "cache": f"{result['cache_bytes_per_token_per_layer']} bytes per token and layer",
    }
    if result["kind"] == "checkpoint":
        if result["quantization"]:
            facts["quantization"] = result["quantization"]
        facts["positions"] = result["max_positions"]
        facts["tensors left out"] = result["dropped"]
    else:
        facts["target"] = f"{result['target']} through {result['frontend']}"
        facts["nodes"] = f"{result['nodes']}, {result['nodes_per_layer']} per layer"
        facts["operators"] = ", ".join(f"{name} {count}" for name, count in result["operators"].items())
    print_pairs(f"{result['kind']}: {escape(result['path'])}", facts)


def say(line: str) -> None:
    """A line of another program's log."""
    err().print(_line(line), soft_wrap=True, markup=False)


def print_compilation(result: Mapping[str, Any]) -> None:
    """What the vendor's tool made of a port; or the commands, where it is not here or none is needed."""
    title = f"{escape(result['port'])} for {escape(result['target'])}"
    if result["script"] is None:
        out().print(f"{title}: nothing to compile, {result['frontend']} takes the graph as it is", soft_wrap=True)
    elif result["missing"]:
        absent = ", ".join(tool.removeprefix("python:") for tool in result["missing"])
        out().print(f"{title}: not compiled, {absent} is not installed here. On the device's host:", soft_wrap=True)
        out().print(f"sh {escape(result['port'])}/{result['script']}", soft_wrap=True)
        out().print("which runs", soft_wrap=True)
        for command in result["commands"]:
            out().print(escape(command), soft_wrap=True)
    else:
        rows: list[list[object]] = [
            [p["file"], step["graph"], size(p["bytes"]), p["sha256"][:16], f"{step['seconds']:.1f} s"]
            for step in result["steps"]
            for p in step["products"]
        ]
        print_rows(f"{title}: compiled", ["file", "from", "size", "SHA-256", "time"], rows)


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def number(value: float | None, unit: str) -> str:
    """A fact with its unit; unknown ones say so."""
    if value is None:
        return "unknown"
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"
