"""Where the TOML files are that porter ships."""

from __future__ import annotations

from pathlib import Path

from porter.errors import TargetError


def shipped(kind: str) -> list[Path]:
    """List the TOML files of a kind: below `porter` in an installed wheel, beside it in a source tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "targets", package.parent / "targets"):
        if folder.is_dir():
            return sorted((folder / kind).glob("*.toml"))
    raise TargetError(f"there is no target data in {package}", "install porter again: a folder is missing")
