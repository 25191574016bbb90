"""Streams one weight file: source rows in, bytes and digests out; goes on behind what an earlier run has finished."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from porter.behind import Behind
from porter.errors import PortError
from porter.package.disk import Disk
from porter.package.journal import Journal, Line
from porter.package.plan import PlannedFile, Step
from porter.source import Ledger, Source
from porter.weights import Parts, content

T = TypeVar("T")
Content = tuple[Parts, dict[str, str] | None]

Count = Callable[[int], None]  # called with bytes done; may raise to stop the work


def write_weights(
    folder: Path, file: PlannedFile, source: Source, dtype: ir.DataType, *, ahead: int, count: Count
) -> dict[str, Any]:
    """Writes a weight file; gives its entry in the manifest, with the digests of the source ranges under `source`.

    With `ahead`, so many chunks wait between reading and writing: these and both digests go side by side, and keep two
    cores busy. Without, one thread does it all but for the writing.

    Raises PortError when the checkpoint changes meanwhile, FamilyError when a value does not fit, OSError as the disk
    does; what is finished stays, and the next call goes on behind it.
    """
    with (
        Journal(journal_of(folder, file)) as journal,
        Disk(folder / file.name) as disk,
    ):
        writer = _Writer(disk, file, journal, count)
        done = writer.replay()
        if ahead:
            contents = _ahead(_beside(file, source, dtype, done), ahead)
        else:
            contents = _contents(file, source, dtype, done, Ledger(source.checkpoint))
        for parts, ranges in contents:
            writer.write(parts, ranges)
        disk.finish(file.size())
    return {"file": file.name, "bytes": file.size(), "sha256": writer.digest(), "source": writer.source}


def journal_of(folder: Path, file: PlannedFile) -> Path:
    """Where the journal of a file lies: beside the port to be, never in it."""
    return folder.parent / f"{file.name.replace('/', '.')}.journal"


def _beside(file: PlannedFile, source: Source, dtype: ir.DataType, skipped: int) -> Iterator[Content]:
    """The same as `_contents`, with the digests of what is read taken by a thread of their own."""
    behind = Behind()
    try:
        yield from _contents(file, source, dtype, skipped, Ledger(source.checkpoint, behind))
    finally:
        behind.end()


def _contents(file: PlannedFile, source: Source, dtype: ir.DataType, skipped: int, ledger: Ledger) -> Iterator[Content]:
    """What is stored, chunk by chunk; behind a piece's last chunk comes an empty one with its source ranges."""
    for n, step in enumerate(file.steps()):
        if n >= skipped:
            for parts in content(step.weight, step.piece, source, ledger.read, dtype):
                yield parts, None
            yield (), ledger.ranges()


class _Writer:
    """Puts parts in their places; the file's own digest goes through its bytes in their order, so that the first
    tensor of a weight is digested as it comes, and the others, read back, when the weight is complete.
    """

    def __init__(self, disk: Disk, file: PlannedFile, journal: Journal, count: Count) -> None:
        self.source: dict[str, str] = {}
        self._disk, self._file, self._journal, self._count = disk, file, journal, count
        self._steps = file.steps()
        self._digest = hashlib.sha256(file.header)
        self._begin(next(self._steps, None))

    def replay(self) -> int:
        """Takes over the pieces whose bytes are still what the journal says; gives their number."""
        taken = 0
        for line in self._journal.finished:
            if self._step is None or not self._unharmed(self._step, line):
                break
            self._end(line, note=False)
            taken += 1
        self._journal.keep(taken)
        if not taken:
            self._disk.write(memoryview(self._file.header), 0)
        return taken

    def write(self, parts: Parts, ranges: dict[str, str] | None) -> None:
        """Writes a chunk; with `ranges`, the piece is complete."""
        if ranges is not None:
            self._check_complete()
            self._end(Line(self._digests(), ranges), note=True)
            return
        for n, part in enumerate(parts):
            data = part.reshape(-1).view(np.uint8).data
            self._disk.write(data, self._at[n])
            self._hashes[n].update(data)
            self._at[n] += len(data)
            self._count(len(data))

    def digest(self) -> str:
        """SHA-256 of the file, once all of it is written."""
        return self._digest.hexdigest()

    def _begin(self, step: Step | None) -> None:
        self._step = step
        spans = step.spans if step else ()
        self._at = [offset for offset, _ in spans]
        self._hashes = [self._digest, *(hashlib.sha256() for _ in spans[1:])]

    def _digests(self) -> tuple[str, ...]:
        """Of the file so far, which costs nothing more, and of the piece in each of the other tensors."""
        return tuple(h.hexdigest() for h in self._hashes)

    def _unharmed(self, step: Step, line: Line) -> bool:
        before = self._digest.copy()
        for hashed, (offset, length) in zip(self._hashes, step.spans, strict=True):
            for data in self._disk.read(offset, length):
                hashed.update(data)
        if self._digests() != line.stored:
            self._digest = before
            self._begin(step)
            return False
        self._count(sum(length for _, length in step.spans))
        return True

    def _check_complete(self) -> None:
        assert self._step is not None
        ends = [offset + length for offset, length in self._step.spans]
        if self._at != ends:
            raise PortError(
                f"weight '{self._step.weight.parameter.name}' came out {sum(self._at) - sum(ends):+d} bytes off",
                "the checkpoint changed while it was read: leave it alone and convert again",
            )

    def _end(self, line: Line, *, note: bool) -> None:
        assert self._step is not None
        if self._step.finishes is not None:
            for place in self._step.finishes.places[1:]:
                for data in self._disk.read(place.offset, place.nbytes):
                    self._digest.update(data)
        if note:
            self._disk.settle()
            self._journal.add(line)
        self.source |= line.source
        self._begin(next(self._steps, None))


def _ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items, made by a thread of their own that is up to `depth` ahead."""
    made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    left = threading.Event()

    def put(entry: tuple[T | None, BaseException | None]) -> None:
        while not left.is_set():
            try:
                return made.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put((item, None))
                if left.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:  # raised again where the items are taken
            put((None, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # without an error there is an item
    finally:
        left.set()
        thread.join()
