"""Writes docs/families.md from what the code knows: `python tests/families_page.py`, some minutes."""

from __future__ import annotations

import importlib
import re

from command import ROOT

from porter.coverage import coverage
from porter.families import families
from porter.gallery import gallery
from porter.render_families import page
from porter.target import frontends

PAGE = ROOT / "docs" / "families.md"


def lowered() -> dict[str, str]:
    """Of each family the front ends that take it, or those that do not, with why."""
    cells = coverage()["cells"]
    refused = {name: [c for c in cells if c["family"] == name and c["status"] == "refused"] for name in families()}
    return {
        name: f"all but {', '.join(c['frontend'] for c in bad)}: {bad[0]['reason']}" if bad else everywhere()
        for name, bad in refused.items()
    }


def everywhere() -> str:
    """How a family is told of that goes through every front end."""
    return f"all {len(frontends())}"


def written(lowering: dict[str, str]) -> str:
    """The whole page."""
    constraints = (ROOT / "constraints.txt").read_text()
    found = re.search(r"^transformers==(\S+)$", constraints, re.MULTILINE)
    assert found, "constraints.txt says which transformers"
    about = {name: _about(name) for name in families()}
    return page(gallery(), lowering, f"transformers {found[1]}", about)


def _about(family: str) -> str:
    """The first line of its file."""
    text = importlib.import_module(f"porter.families.{family}").__doc__
    assert text
    return text.strip().splitlines()[0]


if __name__ == "__main__":
    PAGE.write_text(written(lowered()))
