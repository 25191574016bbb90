"""Front ends that there are not, for tests: the standard at an opset, with or without some operators."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import onnx

from porter.target import Frontend, Row, frontends


def standard(opset: int = 17) -> Frontend:
    """Takes all of ONNX at an opset, and nothing that came later."""
    return replace(frontends()["onnxruntime"], name=f"opset-{opset}", opset=opset)


def without(*lacking: str, opset: int = 17) -> Frontend:
    """Takes all of ONNX at an opset but these operators."""
    return only(_names() - set(lacking), opset)


def only(known: Collection[str], opset: int = 17, types: dict[str, frozenset[str]] | None = None) -> Frontend:
    """Takes these operators of ONNX and no others."""
    row = (Row(((1, opset),), types or {}),)
    return replace(standard(opset), name="synthetic", operators={name: row for name in known})


def _names() -> set[str]:
    return {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
