"""The port folder: made beside its final name under a lock, renamed once; interrupted, it waits to be gone on with."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porter.errors import FamilyError, Interrupted, PortError
from porter.package.files import CHECKPOINT, MANIFEST, PARTS, SIGNATURE, sync, to_json

PORT, LOCK, PARAMETERS, REPLACED, MOVING = "port", "lock", "parameters.json", "replaced", "moving"
SPARE_BYTES = 16 * 2**20  # for the graph, the tokenizer and the manifest


@dataclass(frozen=True)
class Destination:
    """Where a port goes: a new folder, or `inside` a checkpoint's own, between the files that are there.

    `force` allows to replace a port; `names` are the files to be written inside.
    """

    output: Path
    force: bool = False
    inside: bool = False
    names: tuple[str, ...] = ()

    @property
    def work(self) -> Path:
        """The folder for what is unfinished: the port to be, the lock and the journals."""
        name = f".{self.output.name}.unfinished"
        return self.output / ".port.unfinished" if self.inside else self.output.parent / name

    def clear_up(self) -> None:
        """Removes the work folder of a run that was killed before it began, or when all but clearing up was done."""
        if self.work.is_dir() and {entry.name for entry in self.work.iterdir()} <= {LOCK, PARAMETERS}:
            with contextlib.suppress(OSError, PortError), _locked(self.work, self.output):
                shutil.rmtree(self.work)

    def refuse(self) -> None:
        """Raises PortError where something stands at the destination that must not be replaced."""
        output = self.output
        if (self.work / MOVING).exists():
            return  # what stands there is, or may be, this very port: new_folder finds out
        if not self.inside and (output.is_symlink() or output.exists()):
            if not self.force:
                raise PortError(f"'{output}' exists", "choose another folder, or --force to replace a port")
            if output.is_symlink() or not (output / MANIFEST).is_file():
                hint = "remove it yourself if you mean it"
                raise PortError(f"'{output}' is not a port, so --force does not replace it", hint)
        if self.inside:
            ours = _listed(output) if self.force else set()
            taken = [n for n in (*self.names, MANIFEST) if os.path.lexists(output / n) and n not in ours]
            if taken:
                hint = "--force replaces a port that is there; move away what is none"
                raise PortError(f"'{output}' has a '{taken[0]}' already", hint)


def _listed(folder: Path) -> set[str]:
    """The files that the port in a checkpoint's folder says are its own, and not the checkpoint's."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        entries = [e for part in PARTS for e in manifest[part]]
        return {MANIFEST, SIGNATURE, *(e["file"] for e in entries if e.get("of") != CHECKPOINT)}
    except (OSError, ValueError, LookupError, TypeError):
        return set()


def free_bytes(output: Path) -> int:
    """Bytes free on the file system where `output` is to lie."""
    return shutil.disk_usage(next(p for p in output.absolute().parents if p.exists())).free


@contextlib.contextmanager
def new_folder(to: Destination, parameters: Mapping[str, Any], needed: int) -> Iterator[Path]:
    """A folder to fill that becomes the port when the block ends well.

    When it does not, what is finished waits beside it for a run with equal `parameters`, unless nothing is finished or
    the error is one that those parameters would meet again.

    Raises PortError when the destination refuses, another run is at it, a run with other parameters left something
    there (unless forced), or it cannot be written or has no room.
    """
    to.refuse()
    output, work = to.output, to.work
    made = _make_parents(work.parent)
    try:
        with _locked(work, output):
            try:
                _put_right(to, parameters)
                to.refuse()  # another run may just have ended
                _take_over(to, parameters)
                _check_room(output, needed - _held(work / PORT))
                yield work / PORT
                for folder in (work / PORT, *filter(Path.is_dir, (work / PORT).iterdir())):
                    sync(folder)
                to.refuse()
                _move_inside(to) if to.inside else _put_in_place(work, output)
            except BaseException as error:
                if isinstance(error, FamilyError) or not _finished(work):
                    shutil.rmtree(work, ignore_errors=True)
                elif isinstance(error, KeyboardInterrupt):
                    raise Interrupted("interrupted", "the same command goes on where this one stopped") from None
                raise
    except OSError as error:
        again = ", and run the same command again: it goes on where it stopped" if _finished(work) else ""
        raise PortError(
            f"'{output}' cannot be written: {error.strerror or error}", f"make room or choose another folder{again}"
        ) from None
    finally:
        if not output.exists() and not work.exists():
            for folder in reversed(made):
                with contextlib.suppress(OSError):
                    folder.rmdir()


@contextlib.contextmanager
def _locked(work: Path, output: Path) -> Iterator[None]:
    """Holds the lock of a folder; the system lets go of it however the process ends."""
    while True:
        work.mkdir(exist_ok=True)
        handle = os.open(work / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise PortError(f"another porter is writing '{output}'", "wait for it, or choose another folder") from None
        if os.fstat(handle).st_nlink:
            break
        os.close(handle)  # the run that held it has ended, and removed it
    try:
        yield
    finally:
        os.close(handle)


def _take_over(to: Destination, parameters: Mapping[str, Any]) -> None:
    """Goes on with what an earlier run left, or begins. Raises PortError when that had other parameters."""
    work, path = to.work, to.work / PARAMETERS
    left = _read(path)
    other = [name for name in parameters if left.get(name) != parameters[name]]
    if left and other and not to.force:
        raise PortError(
            f"an unfinished conversion to '{to.output}' has another {' and '.join(map(_said, other))}",
            f"give the same parameters to go on, --force to begin anew, or remove '{work}'",
        )
    if other:
        _clear(work, LOCK)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(to_json(dict(parameters)))
        fresh.rename(path)
    (work / PORT).mkdir(exist_ok=True)


def _read(path: Path) -> dict[str, Any]:
    """The parameters that were left; none where there are none, or where a power cut has spoilt them."""
    try:
        left = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return left if isinstance(left, dict) else {}


def _said(parameter: str) -> str:
    return parameter.replace("_", " ")


def _finished(work: Path) -> bool:
    """Whether an earlier run, or this one, has finished any piece."""
    return any(path.stat().st_size for path in work.glob("*.journal"))


def _held(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


def _make_parents(folder: Path) -> list[Path]:
    made = [p for p in (folder, *folder.parents) if not p.exists()][::-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PortError(
            f"'{folder}' cannot be made: {error.strerror}", "choose a folder that you may write to"
        ) from None
    return made


def _check_room(output: Path, needed: int) -> None:
    free = free_bytes(output)
    if free < needed + SPARE_BYTES:
        raise PortError(
            f"the port needs {(needed + SPARE_BYTES) / 1e6:.0f} MB, but '{output.parent}' has {free / 1e6:.0f} MB free",
            "make room or choose another folder",
        )


def _put_in_place(work: Path, output: Path) -> None:
    """Renames into place; a port that was there goes only once the new one stands."""
    (work / MOVING).touch()
    sync(work)
    if output.exists():
        output.rename(work / REPLACED)
    try:
        (work / PORT).rename(output)
    except OSError:
        _restore(work, output)
        raise
    sync(output.parent)
    _finish(work)


def _move_inside(to: Destination) -> None:
    """Moves the files into the folder of the checkpoint, the manifest last: without it they are no port."""
    (to.work / MOVING).touch()
    sync(to.work)
    for name in sorted(_listed(to.output), key=lambda name: name != MANIFEST) if to.force else ():
        (to.output / name).unlink(missing_ok=True)
    for path in sorted((to.work / PORT).iterdir(), key=lambda p: (p.name == MANIFEST, p.name)):
        path.rename(to.output / path.name)
    sync(to.output)
    _finish(to.work)


def _finish(work: Path) -> None:
    """Removes what was needed for the work, the marker behind all that it takes to put things right."""
    _clear(work, LOCK, PARAMETERS, MOVING)
    (work / MOVING).unlink()
    shutil.rmtree(work)


def _put_right(to: Destination, parameters: Mapping[str, Any]) -> None:
    """Puts right what a run has left that was cut short while its port was moved into place."""
    work, output = to.work, to.output
    _restore(work, output)
    if to.inside or not (work / MOVING).exists():
        return
    if output.exists() and not (work / PORT).exists():  # the port stands, the clearing up is missing
        if _read(work / PARAMETERS) == parameters:
            output.rename(work / PORT)
        else:
            _clear(work, LOCK, MOVING)
    (work / MOVING).unlink(missing_ok=True)


def _restore(work: Path, output: Path) -> None:
    """Puts back the port that was taken away for another one, unless that stands."""
    if (work / REPLACED).exists():
        if output.exists():
            shutil.rmtree(work / REPLACED)
        else:
            (work / REPLACED).rename(output)


def _clear(work: Path, *kept: str) -> None:
    for entry in (e for e in work.iterdir() if e.name not in kept):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
