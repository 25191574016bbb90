"""JUnit XML, which every CI shows: a suite for each level, a case for each check, first what did not pass. That is a
failure, of the type `fail` or `inconclusive`: what ends `porter verify` with 1 or 3 is red. What is only told passes,
with its numbers as output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from porter.reports.document import RED, Finding, facts, findings, level_findings, located, number, plain


def to_junit(document: Mapping[str, Any]) -> bytes:
    """The file."""
    root = Element("testsuites", name="porter verify", time=f"{document['seconds']:.3f}")
    suites = [_suite(root, level["name"], level["checks"], level_findings(level)) for level in document["levels"]]
    if not suites:
        suites = [_suite(root, "verify", (), findings(document))]
    for suite in suites:
        _properties(suite, document)
    for name in ("tests", "failures"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    root.set("errors", "0")
    indent(root)
    return tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _suite(root: Element, level: str, checks: Sequence[Mapping[str, Any]], red: Sequence[Finding]) -> Element:
    suite = SubElement(root, "testsuite", name=plain(level))
    for finding in red:
        words = plain(finding.sentence())
        SubElement(_case(suite, level, finding.name), "failure", type=finding.status, message=words).text = words
    for check in checks:
        if check["status"] not in RED:
            SubElement(_case(suite, level, check["name"]), "system-out").text = plain(_told(check))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(red)))
    suite.set("errors", "0")
    suite.set("skipped", "0")
    return suite


def _case(suite: Element, level: str, name: str) -> Element:
    return SubElement(suite, "testcase", classname=f"porter.verify.{plain(level)}", name=plain(name))


def _told(check: Mapping[str, Any]) -> str:
    words = f"{check['status']}: {number(check['value'])}"
    if check["limit"] is not None:
        words += f", limit {number(check['limit'])}"
    if "port" in check:
        sides = (f"{side} {number(check[side])} ±{number(check[side + '_standard_error'])}" for side in _SIDES)
        words += f" ({', '.join(sides)})"
    return words + (f"; {check['detail']}" if check["detail"] else "")


_SIDES = ("port", "original")


def _properties(suite: Element, document: Mapping[str, Any]) -> None:
    """Before the cases, as readers of the format expect."""
    properties = Element("properties")
    told = facts(document) | {"note": "; ".join(document["notes"]), "located": located(document)}
    for name, value in told.items():
        if value:
            SubElement(properties, "property", name=name, value=plain(value))
    suite.insert(0, properties)
