"""Weights with known content, planned and written without a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from porter.blocks.module import Parameter
from porter.weights import Weight


def weights(*shapes: tuple[int, ...]) -> tuple[Weight, ...]:
    """Weights w0, w1 … whose content is computed: counted up from their number."""
    made = []
    for n, shape in enumerate(shapes):
        content = n + np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
        made.append(Weight(Parameter(shape, table=lambda content=content: content, name=f"w{n}"), ()))
    return tuple(made)


def left_in(folder: Path) -> list[str]:
    """The names of what is in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())
