"""What is known of targets, as text: one table of them all, or one with the source of every fact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from porter.render import STATUS, number, out, print_pairs, print_rows

SHORT = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8e4m3fn": "fp8",
    "float4e2m1": "fp4",
}


def print_targets(result: Mapping[str, Any]) -> None:
    """The devices side by side, the cards that are sold under a name below it."""
    rows: list[list[object]] = []
    for t in result["targets"]:
        rows.append([t["name"], ", ".join(t["frontends"]) or "none", *_figures(t)])
        for name, card in t["variants"].items():
            rows.append(
                [f"  {name}", "", *(x if x != y else "" for x, y in zip(_figures(card), _figures(t), strict=True))]
            )
    print_rows("targets", ["name", "front ends", "dtypes", "memory", "bandwidth", "16-bit rate"], rows)


def _figures(card: Mapping[str, Any]) -> list[object]:
    rate = card["rates"].get("bfloat16") or card["rates"].get("float16")
    return [
        " ".join(SHORT.get(dtype, dtype) for dtype in card["dtypes"]) or "unknown",
        number(card["memory_bytes"], "B"),
        number(card["memory_bandwidth"], "B/s"),
        number(rate, "op/s"),
    ]


def print_target(result: Mapping[str, Any]) -> None:
    """One device with its variants and front ends, and where each fact was read."""
    print_pairs(f"{escape(result['title'])} ({escape(result['vendor'])})", _card(result))
    for name, card in result["variants"].items():
        whole = _card(result)
        own = {fact: text for fact, text in _card(card).items() if text != whole[fact]}
        print_pairs(f"sold under the name: {escape(name)}", own)
    for note in result["notes"]:
        out().print(f"note: {escape(note)}", soft_wrap=True)
    if not result["frontends"]:
        out().print("no front end: no way in for ONNX is known, or it is there to be compared with", soft_wrap=True)
    for f in result["frontends"]:
        print_pairs(f"front end {escape(f['name'])}", _way_in(f))


def _card(card: Mapping[str, Any]) -> dict[str, object]:
    """Each fact with where it was read."""
    link = card["link"] or {}
    facts: dict[str, str] = {
        "soc": card["soc"] or "unknown",
        "dtypes": ", ".join(card["dtypes"]) or "unknown",
        "memory_bytes": number(card["memory_bytes"], "B"),
        "memory_bandwidth": number(card["memory_bandwidth"], "B/s"),
        "rates": ", ".join(f"{d} {number(r, 'op/s')}" for d, r in card["rates"].items()) or "unknown",
        "link": _link(link) if link else "unknown",
    }
    return {fact: _sourced(text, card["sources"].get(fact)) for fact, text in facts.items()}


def _link(link: Mapping[str, Any]) -> str:
    ways = {1: " each way", 2: " both ways together", None: ""}[link["directions"]]
    speed = f"{number(link['bandwidth'], 'B/s')}{ways if link['bandwidth'] else ''}"
    nodes = [f"{number(link['between_nodes'], 'B/s')} between nodes"] if link["between_nodes"] else []
    cards = [f"{link['cards']} cards"] if link["cards"] else []
    late = [f"{link['latency'] * 1e6:g} µs a message"] if link["latency"] else []
    return ", ".join([link["name"], speed, link["topology"] or "topology unknown", *cards, *nodes, *late])


def _way_in(f: Mapping[str, Any]) -> dict[str, object]:
    listed = f"{f['operators']}{', assumed: no list is published' if f['assumed'] else ''}"
    facts = {
        "title": f["title"],
        "opset": f"{f['opset']}, of {f['opset_range'][0]} to {f['opset_range'][1]}",
        "ir_version": f["ir_version"],
        "dtypes": ", ".join(f["dtypes"]),
        "shapes": ", ".join(f["shapes"]),
        "gears_limit": "{} to {}".format(*f["gears_limit"]) if f["gears_limit"] else None,
        "minimum_past": f["minimum_past"],
        "max_rank": f["max_rank"],
        "max_model_bytes": None if f["max_model_bytes"] is None else f"{f['max_model_bytes']:,}",
        "external_data": {None: None, True: "taken", False: "not taken"}[f["external_data"]],
        "operators": listed,
    }
    told = {fact: _sourced(str(v), f["sources"].get(fact)) for fact, v in facts.items() if v is not None}
    told["custom operators"] = ", ".join(f["custom_operators"]) or "none"
    told |= {f"{name} asks": note for name, note in f["operator_notes"].items()}
    told |= {f"rule {c['name']}": _sourced(c["reason"], c["source"]) for c in f["checks"]}
    for m in f["mappings"]:
        when = "".join(f", {name} {_condition(stated)}" for name, stated in m["when"].items())
        told[f"maps {m['function']}{when}"] = f"{', '.join(m['operators'])}: {m['reason']}"
    if f["compile"]:
        told["compiled by"] = _sourced(", ".join(f["compile"]["tools"]), f["compile"]["source"])
    return {**told, **{f"note {n}": note for n, note in enumerate(f["notes"], start=1)}}


def _sourced(text: str, source: str | None) -> str:
    return f"{text}  [{source}]" if source else text


def _condition(stated: object) -> str:
    """A value, or bounds in words: at most 512, multiple of 16."""
    if not isinstance(stated, Mapping):
        return str(stated)
    return " ".join(f"{bound.replace('_', ' ')} {limit}" for bound, limit in stated.items())


def print_coverage(result: Mapping[str, Any]) -> None:
    """For each front end what became of which families; why something is refused stands below."""
    kinds = ("ok", "expanded", "refused")
    rows: list[list[object]] = []
    for name in result["frontends"]:
        cells = [cell for cell in result["cells"] if cell["frontend"] == name]
        found = [[c["family"] for c in cells if c["status"] == kind] for kind in kinds]
        notes = ", ".join(
            word
            for word, is_so in {"assumed": cells[0]["assumed"], "fixed sizes": all(c["shape"] for c in cells)}.items()
            if is_so
        )
        rows.append([name + (f" ({notes})" if notes else ""), *map(_families, found, [len(cells)] * len(kinds))])
    print_rows("families by front end", ["front end", *kinds], rows)
    words = "ok: some functions are the vendor's own operators; expanded: all of it is in operators of the standard"
    out().print(words, soft_wrap=True)
    for cell in result["cells"]:
        if cell["status"] == "refused":
            why = f"{cell['family']} on {cell['frontend']}: {cell['reason']}"
            out().print(f"[{STATUS['fail']}]refused[/] {escape(why)}", soft_wrap=True)


def _families(names: list[str], count: int) -> str:
    return f"all {count}" if len(names) == count else ", ".join(names) or "-"
