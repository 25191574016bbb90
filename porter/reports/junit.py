"""JUnit XML, which every CI shows: a suite for each level, a case for each check. What is not passed is a failure, of
the type `fail` or `inconclusive`: a build that `porter verify` ends with 1 or 3 is red. What is only told passes, with
its numbers as output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from porter.reports.document import Finding, facts, findings, located, number, plain


def to_junit(document: Mapping[str, Any]) -> bytes:
    """The file."""
    root = Element("testsuites", name="porter verify", time=f"{document['seconds']:.3f}")
    red = findings(document)
    names = list(dict.fromkeys([level["name"] for level in document["levels"]] + [f.level for f in red]))
    checks = {level["name"]: level["checks"] for level in document["levels"]}
    suites = [_suite(root, name, checks.get(name, ()), [f for f in red if f.level == name]) for name in names]
    for suite in suites:
        _properties(suite, document)
    for name in ("tests", "failures"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    root.set("errors", "0")
    indent(root)
    return tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _suite(root: Element, level: str, checks: Any, red: list[Finding]) -> Element:
    suite = SubElement(root, "testsuite", name=plain(level))
    failed = {finding.name: finding for finding in red}
    for name in dict.fromkeys([check["name"] for check in checks] + [*failed]):
        case = SubElement(suite, "testcase", classname=f"porter.verify.{plain(level)}", name=plain(name))
        if name in failed:
            finding = failed[name]
            words = plain(finding.sentence())
            SubElement(case, "failure", type=finding.status, message=words).text = words
        else:
            check = next(check for check in checks if check["name"] == name)
            SubElement(case, "system-out").text = plain(_told(check))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(red)))
    suite.set("errors", "0")
    suite.set("skipped", "0")
    return suite


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
