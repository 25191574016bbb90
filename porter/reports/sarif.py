"""SARIF 2.1.0, with what code scanning asks for: a rule for each quantity of a level, a result for each check that did
not pass. The place is the port's manifest, which stands at the same path from run to run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from porter import __version__
from porter.package.files import MANIFEST
from porter.reports.document import ABOUT, Finding, facts, findings, leveled, located, plain, to_json

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"fail": "error", "inconclusive": "warning"}
HELP = "The verdict of porter verify is in the files of --report: HTML and JSON have every number."


def to_sarif(document: Mapping[str, Any]) -> bytes:
    """The file."""
    red = findings(document)
    judged = [(level, check["name"]) for level, check in leveled(document) if check["status"] != "measured"]
    rules = {_rule_id(*key): _rule(*key) for key in [*judged, *((f.level, f.name) for f in red)]}
    order = {name: index for index, name in enumerate(rules)}
    where = _location(document["port"])
    driver = {"name": "porter", "semanticVersion": __version__, "rules": list(rules.values())}
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"porter-verify/{_slug(document['target'])}/{document['dtype']}/"},
        "results": [_result(finding, order, where) for finding in red],
        "properties": {
            **{name: plain(value) for name, value in facts(document).items()},
            "status": document["status"],
            "notes": [plain(note) for note in document["notes"]],
            "located": plain(located(document)),
        },
    }
    return to_json({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def _rule_id(level: str, name: str) -> str:
    """The same for each scenario: of "prefill: layers" at the semantics level, semantics/layers."""
    return f"{_slug(level)}/{_slug(name.rpartition(': ')[2])}"


def _rule(level: str, name: str) -> dict[str, Any]:
    quantity, about = name.rpartition(": ")[2], ABOUT.get(level, level)
    return {
        "id": _rule_id(level, name),
        "name": plain(f"{level}: {quantity}"),
        "shortDescription": {"text": plain(f"{level}: {quantity}")},
        "fullDescription": {"text": plain(f"{quantity}: {about}")},
        "help": {"text": HELP},
        "defaultConfiguration": {"level": "error"},
        "properties": {
            "tags": ["parity", plain(level)],
            "precision": "very-high",
            "problem.severity": "error",
        },
    }


def _result(finding: Finding, order: Mapping[str, int], where: Mapping[str, Any]) -> dict[str, Any]:
    rule = _rule_id(finding.level, finding.name)
    identity = hashlib.sha256(f"{finding.level}/{finding.name}".encode(errors="replace")).hexdigest()
    return {
        "ruleId": rule,
        "ruleIndex": order[rule],
        "level": LEVELS[finding.status],
        "message": {"text": plain(f"{finding.level}: {finding.sentence()}")},
        "locations": [where],
        "partialFingerprints": {"primaryLocationLineHash": f"{identity[:16]}:1"},
    }


def _location(port: str) -> dict[str, Any]:
    """Its first character: a graph has no lines."""
    manifest = Path(port) / MANIFEST
    uri = quote(manifest.as_posix().encode(errors="surrogateescape"))
    place = {"uri": f"file://{uri}" if manifest.is_absolute() else uri}
    region = {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 2}
    return {"physicalLocation": {"artifactLocation": place, "region": region}}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
