"""Verdicts made by hand, of every status, with every kind of check and figure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from porter.verify.report import (
    Asked,
    Check,
    Closeness,
    ErrorAt,
    ExpertLoad,
    Figures,
    Level,
    Measured,
    ParityReport,
)

HOSTILE = "<script>alert(\"1\")</script> & 'x' ]]> | `a` \x1b[31m\udcff"


def measured(low: float, high: float) -> Measured:
    return Measured(1.1, 0.1, 1.0, 0.1, (low, high))


SAME = Check("weights unlike their source", 0, 0, "pass")
OTHER = Check("weights unlike their source", 2, 0, "fail", "model.norm.weight, lm_head.weight")
NEAR = Check("prefill: layers", 0.75, 10.0, "pass", "worst at 2")
FAR = Check("prefill: layers", 76879.5, 10.0, "fail", "worst at 2")
LOST = Check.at_most("decode: layers", float("inf"), 10.0, "worst at 1")
JUDGED = Check("layers", 1.1, 1.5, "pass", "worst at 1", measured(0.9, 1.3))
BEYOND = Check("layers", 11.6, 1.5, "fail", "worst at 2", measured(9.25, 13.75))
UNDECIDED = Check("logits", 1.2, 1.5, "inconclusive", "32 prompts leave it open", measured(0.8, 1.9))
TOLD = Check("cost: KL mean", 0.001, None, "measured", measured=Measured(0.001, 1e-4, 0.002, float("inf"), None))


def errors(ratio: float) -> tuple[ErrorAt, ...]:
    """Of two layers, their caches and the logits; the second layer's is `ratio` times the original's."""
    found = [
        ErrorAt("semantics", "chunked", "layers", str(n), n, r * 1e-7, 1e-7, r, 10.0) for n, r in ((0, 1.0), (1, ratio))
    ]
    caches = [ErrorAt("semantics", "chunked", "cache", f"{n}.key", n, 1e-7, 1e-7, 1.0, 10.0) for n in range(2)]
    return (*found, *caches, ErrorAt("semantics", "chunked", "logits", "", None, 2e-6, 1e-6, 2.0, 10.0))


def report(*levels: Level, **given: Any) -> ParityReport:
    near = Closeness(True, 1e-5, 0.999, 1e-9)
    base = ParityReport("build/port", "checkpoint", "ascend-910b", "bfloat16", levels, near, 12.3456, ("a note",))
    return replace(base, **given)


def passed() -> ParityReport:
    figures = Figures(errors(1.5), (ExpertLoad(1, (3, 0, 5), (2, 1, 5)),))
    levels = Level("weights", (SAME,)), Level("semantics", (NEAR,), figures), Level("dtype", (JUDGED, TOLD))
    return report(*levels, prompts=Asked("bundled", 32, "0f" * 32))


def failed() -> ParityReport:
    levels = Level("weights", (OTHER,)), Level("semantics", (FAR, LOST, NEAR), Figures(errors(5e4)))
    return report(*levels, Level("dtype", (BEYOND, UNDECIDED, TOLD)))


def inconclusive() -> ParityReport:
    return report(Level("semantics", (NEAR,)), Level("dtype", (JUDGED, UNDECIDED)), closeness=None)


def unjudged() -> ParityReport:
    """A level at which everything was told and nothing judged."""
    return report(Level("weights", (SAME,)), Level("distribution", (TOLD,)))


def sliced() -> ParityReport:
    return report(Level("semantics", (NEAR,)), slice=(0, 2), notes=("a SLICE",))


def hostile() -> ParityReport:
    """Every word that somebody else can choose."""
    check = Check(f"prefill: {HOSTILE}", 7.0, 0, "fail", HOSTILE)
    figures = Figures(errors=(ErrorAt("dtype", HOSTILE, HOSTILE, f"1.{HOSTILE}", 1, 1.0, 1.0, 1.0, 2.0),))
    words = {"port": HOSTILE, "against": HOSTILE, "target": HOSTILE, "notes": (HOSTILE,)}
    return report(Level("semantics", (check,), figures), **words)


EVERY = {
    "passed": passed,
    "failed": failed,
    "inconclusive": inconclusive,
    "unjudged": unjudged,
    "sliced": sliced,
    "hostile": hostile,
    "empty": report,
}
