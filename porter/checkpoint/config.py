"""config.json: the one file that says what a checkpoint is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from porter.checkpoint.files import read_object
from porter.errors import CheckpointError

_LIMIT = 4 << 20  # a config has kilobytes: this stops files that are made to fill the memory


def read_config(path: Path) -> dict[str, Any]:
    """Read the config.json of a folder, or one that is given by its own path.

    Code that it names (`auto_map`) is never looked at, let alone run. Raises CheckpointError when it is missing, not a
    JSON object, over 4 MiB, or its model_type is no string.
    """
    config = read_object(path if path.is_file() else path / "config.json", _LIMIT)
    if not isinstance(config.get("model_type", ""), str):
        raise CheckpointError(
            "config.json: model_type is not a string",
            'give it the name of the architecture, such as "model_type": "llama"',
        )
    return config
