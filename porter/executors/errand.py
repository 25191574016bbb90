"""One weight file, written by a worker that may be another machine: it works the order out once more and makes sure
that it is about to write the same bytes into the same folder.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from porter.errors import PortError
from porter.order import Order, Work, work_out
from porter.package.execute import ahead
from porter.package.stream import write_weights
from porter.target import is_path

TOKEN = "shared"  # beside the port to be; its content, by chance, is that of no other run
SHARE = "checkpoint and port must lie on a file system that all nodes share, under the same paths everywhere"


@dataclass(frozen=True)
class Errand:
    """All that a worker is told: plain, so that it travels."""

    order: Order
    agreement: Mapping[str, str]  # what both sides must have in common: `Work.agreement`
    folder: Path  # the port to be
    token: str
    number: int  # of the file in the plan
    threads: int


def errands(work: Work, folder: Path, threads: int) -> list[Errand]:
    """One for each file of the plan, by absolute paths. Leaves the token that workers look for beside `folder`."""
    token = secrets.token_hex(16)
    (folder.parent / TOKEN).write_text(token)
    named = (work.order.target, work.order.frontend)
    target, frontend = (str(Path(name).absolute()) if name and is_path(name) else name for name in named)
    order = replace(work.order, checkpoint=work.order.checkpoint.absolute(), target=str(target), frontend=frontend)
    agreement = work.agreement()
    return [Errand(order, agreement, folder.absolute(), token, n, threads) for n in range(len(work.files))]


def run_errand(errand: Errand) -> dict[str, Any]:
    """Writes the file, and gives its entry in the manifest; what is finished stays, whatever happens.

    Raises PortError when this machine does not see the folders of the one that sent it, or would write other bytes;
    and what `write_weights` raises.
    """
    _check_shared(errand)
    work, agreement = _worked_out(errand.order, errand.token)
    other = [name for name in errand.agreement if agreement[name] != errand.agreement[name]]
    if other:
        raise PortError(
            f"the worker on {_here()} has another {' and '.join(other)}",
            f"every node needs the same version of porter; {SHARE}",
        )
    return write_weights(
        errand.folder,
        work.files[errand.number],
        work.model.source,
        work.dtype,
        ahead=ahead(1, errand.threads),
        count=lambda nbytes: None,  # whoever sent it counts what the journal says
    )


@lru_cache(maxsize=1)
def _worked_out(order: Order, token: str) -> tuple[Work, dict[str, str]]:
    """Once for all files that a worker writes in one run: the headers of a large checkpoint take a while."""
    work = work_out(order)
    return work, work.agreement()


def _check_shared(errand: Errand) -> None:
    token = errand.folder.parent / TOKEN
    if not token.is_file() or token.read_text() != errand.token:
        raise PortError(f"the worker on {_here()} does not see '{errand.folder}' as it is here", SHARE)
    if not errand.order.checkpoint.is_dir():
        raise PortError(f"the worker on {_here()} does not see '{errand.order.checkpoint}'", SHARE)


def _here() -> str:
    return socket.gethostname()
