"""What every form reads in the document of a verdict: the checks, what came of them, and how a number is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

VERDICTS = {"pass": "parity holds", "fail": "parity fails", "inconclusive": "inconclusive"}
RED = ("fail", "inconclusive")  # what ends `porter verify` with 1 and 3
ABOUT = {
    "weights": "the bytes of every weight against their source",
    "semantics": "the port in float32 beside the original in float32, both against the original in float64",
    "dtype": "the port at its dtype beside the original at that dtype, both against the original in float64",
    "distribution": "the next token's distribution, port and original at the port's dtype, against float64",
}
JUDGED = "of what was judged"  # the name of the finding of a level that looked at nothing


@dataclass(frozen=True)
class Finding:
    """A check that did not pass."""

    level: str
    name: str
    status: str
    value: float | str | None
    limit: float | None
    interval: Sequence[float | str] | None
    detail: str

    @property
    def needed(self) -> float | None:
        """The smallest limit that it would have passed: the upper end of its interval, where it has one. None where
        no limit would do.
        """
        reached = self.interval[1] if self.interval else self.value
        return reached if isinstance(reached, int | float) and self.limit is not None and reached > self.limit else None

    def sentence(self) -> str:
        """All of it in one line."""
        limit = "" if self.limit is None else f", limit {number(self.limit)}"
        value = "" if self.value is None else f" = {number(self.value)}{limit}"
        needed = "" if self.needed is None else f"; a limit of {number(self.needed)} would have passed"
        detail = f"; {self.detail}" if self.detail else ""
        return f"{self.status}: {self.name}{value}{detail}{needed}"


def findings(document: Mapping[str, Any]) -> list[Finding]:
    """What did not pass. Never empty for a verdict that is not a pass: a level that judged nothing is a finding."""
    found = []
    for level in document["levels"]:
        found += level_findings(level)
    if not found and document["status"] in RED:
        found = [_nothing("verify", document["status"])]
    return found


def level_findings(level: Mapping[str, Any]) -> list[Finding]:
    """Those of one level."""
    red = [_finding(level["name"], check) for check in level["checks"] if check["status"] in RED]
    return [_nothing(level["name"], level["status"])] if not red and level["status"] in RED else red


def _finding(level: str, check: Mapping[str, Any]) -> Finding:
    told = {name: check[name] for name in ("name", "status", "value", "limit", "detail")}
    return Finding(level=level, interval=check.get("interval"), **told)


def _nothing(level: str, status: str) -> Finding:
    return Finding(level, JUDGED, status, None, None, None, "no check was judged, so nothing is proven")


def facts(document: Mapping[str, Any]) -> dict[str, str]:
    """What was compared, in words: by the name of the fact."""
    found = {name: str(document[name]) for name in ("port", "against", "target", "dtype")}
    if document.get("runtime"):
        found["run by"] = str(document["runtime"])
    if asked := document["prompts"]:
        found["prompts"] = f"{asked['count']}, {asked['source']} (SHA-256 {asked['sha256'][:16]}…)"
    if document["slice"] is not None:
        found["slice"] = f"layers {', '.join(map(str, document['slice']))} alone"
    if document["max_abs_error"] is not None and document["kl"] is not None:
        greedy = "equal" if document["greedy_match"] else "not equal"
        near = f"largest error {number(document['max_abs_error'])}, KL {number(document['kl'])}"
        found["logits in float32"] = f"{near}, greedy tokens {greedy}"
    return found | {"time": f"{document['seconds']:.1f} s"}


def located(document: Mapping[str, Any]) -> str:
    """Where a fault was first seen, in words; nothing where none was looked for or found."""
    place = document.get("located")
    if not place:
        return ""
    where = f"layer {place['layer']}" if place["layer"] is not None else ""
    where = ", ".join(filter(None, (where, place["block"]))) or f"the {place['quantity']}"
    error = (
        f"{place['quantity']} {number(place['ratio'])} times the original's own error, limit {number(place['limit'])}"
        if place["limit"]
        else f"{place['quantity']}, of which {number(place['ratio'])} differ"
    )
    kept = f"; saved in {place['folder']}" if place["folder"] else ""
    return f"first seen in {where}: {error} ({place['scenario']}){kept}"


def other_dtype(document: Mapping[str, Any]) -> str:
    """Which dtype would have passed, where that is known: the semantics level ran the same graph in float32."""
    status = {level["name"]: level["status"] for level in document["levels"]}
    sound = status.get("semantics") == "pass" and status.get("weights", "pass") == "pass"
    narrow = any(status.get(name) in RED for name in ("dtype", "distribution"))
    if not (sound and narrow) or document["dtype"] == "float32":
        return ""
    return f"In float32 the same graph passed (semantics): what is beyond its limits is so in {document['dtype']}."


def number(value: float | str | None) -> str:
    """Three digits, or all before the point; a number that JSON has not comes with its name."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.0f}" if isinstance(value, int) or 1e3 <= abs(value) < 1e7 else f"{value:.3g}"


def interval(check: Mapping[str, Any]) -> str:
    """Of a check: the two ends, or nothing."""
    ends = check.get("interval")
    return f"{number(ends[0])} … {number(ends[1])}" if ends else ""


def plain(text: str) -> str:
    """What XML 1.0 can hold: no control characters but these, no halves of a pair, which names of files may have."""
    return "".join(c if _allowed(ord(c)) else "\ufffd" for c in text)


def _allowed(code: int) -> bool:
    return code in (9, 10, 13) or 0x20 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or code > 0xFFFF


def leveled(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every check with its level."""
    return ((level["name"], check) for level in document["levels"] for check in level["checks"])


def to_json(document: Mapping[str, Any]) -> bytes:
    """The document as `--json` prints it. Half of a pair, which the name of a file may have, becomes its escape."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors="backslashreplace")
