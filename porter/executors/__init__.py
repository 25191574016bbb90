"""Who writes the weight files of a port: this machine's cores, or a Ray cluster.

A file depends on nothing but the checkpoint and the order, so whoever writes it, its bytes, its digests and its journal
are the same; what one executor began, another may finish.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Protocol

from porter.errors import PortError
from porter.executors.local import write_here
from porter.order import Work
from porter.package.execute import Tell


class Executor(Protocol):
    """Writes all files of a port."""

    def __call__(self, work: Work, folder: Path, jobs: int | None, tell: Tell) -> list[dict[str, Any]]:
        """Writes the files of `work` into `folder` with `jobs` threads in all (None: as many as there are cores), and
        gives their entries in the manifest, in order.

        The first error, or an interrupt, ends the others at their next chunk and is raised; what is finished stays.
        """


def find_executor(name: str) -> Executor:
    """The executor `local` or `ray`. Raises PortError when its package is not installed."""
    if name == "local":
        return write_here
    if importlib.util.find_spec("ray") is None:
        raise PortError("--executor ray needs the package ray", "pip install 'porter[ray]'")
    from porter.executors.cluster import write_on_cluster

    return write_on_cluster
