"""The model of transformers' that an original is."""

from __future__ import annotations

from typing import Any

from porter.verify.original import Original


def inside(original: Original) -> Any:
    """The model of transformers' that an original is, where it is in one piece."""
    return original.part(original.stages.parts[0])._model
