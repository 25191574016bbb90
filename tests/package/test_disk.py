"""A file written behind the back of who makes its bytes: in order, whole, and no error is lost."""

from __future__ import annotations

import errno
import os
import random
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from porter.package import disk as writing
from porter.package.disk import BLOCK, Disk

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
BROKEN = OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture(params=["direct", "cached"])
def way(request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the cache, where this file system can do that, and through it."""
    if request.param == "cached":
        monkeypatch.setattr(writing, "_open_direct", lambda path: None)
        return
    with Disk(path) as disk:
        if disk._direct is None:
            pytest.skip("no direct writing here")


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "LEAST_DIRECT", 3 * BLOCK)
    monkeypatch.setattr(writing, "CHUNK_BYTES", 2 * BLOCK)


@pytest.mark.usefixtures("way")
def test_everything_is_where_it_was_put(path: Path) -> None:
    """Pieces of any size at any offset, not in their order, whole blocks or parts of them."""
    chance = random.Random(0)
    expected = chance.randbytes(40 * BLOCK + 7)
    cuts = sorted({0, BLOCK, 9 * BLOCK, len(expected), *(chance.randrange(len(expected)) for _ in range(12))})
    pieces = list(pairwise(cuts))
    chance.shuffle(pieces)
    with Disk(path) as disk:
        for start, stop in pieces:
            disk.write(memoryview(expected)[start:stop], start)
        disk.finish(len(expected))
    assert path.read_bytes() == expected


@pytest.mark.usefixtures("way")
def test_what_stood_there_stays_but_for_what_is_written(path: Path) -> None:
    path.write_bytes(b"a" * 20 * BLOCK)
    with Disk(path) as disk:
        disk.write(memoryview(b"b" * 10 * BLOCK), 5)
        disk.finish(11 * BLOCK)
    assert path.read_bytes() == b"aaaaa" + b"b" * 10 * BLOCK + b"a" * (BLOCK - 5)


@pytest.mark.usefixtures("way")
def test_what_was_written_can_be_read(path: Path) -> None:
    data = random.Random(1).randbytes(9 * BLOCK + 3)
    with Disk(path) as disk:
        disk.write(memoryview(data), 0)
        assert b"".join(disk.read(20, 8 * BLOCK)) == data[20 : 20 + 8 * BLOCK]
        assert b"".join(disk.read(9 * BLOCK, 100)) == data[9 * BLOCK :]


@pytest.mark.parametrize("answer", [0, BLOCK, OSError(errno.EINVAL, "Invalid argument")])
def test_a_disk_that_wants_it_otherwise_gets_it_through_the_cache(
    answer: int | OSError, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes fewer bytes than it was given, or none."""
    data, original = random.Random(2).randbytes(8 * BLOCK), os.pwrite
    with Disk(path) as disk:
        direct = disk._direct

        def write(descriptor: int, part: memoryview, offset: int) -> int:
            if descriptor != direct:
                return original(descriptor, part, offset)
            if isinstance(answer, OSError):
                raise answer
            return original(descriptor, part[:answer], offset)

        monkeypatch.setattr(os, "pwrite", write)
        for start in (0, 4 * BLOCK):
            disk.write(memoryview(data)[start : start + 4 * BLOCK], start)
        disk.finish(len(data))
    assert path.read_bytes() == data


def test_who_writes_goes_on_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, original = threading.Event(), os.pwrite

    def slow(*given: object) -> int:
        assert made.wait(10), "the disk waits for the next bytes, and these wait for the disk"
        return original(*given)

    monkeypatch.setattr(os, "pwrite", slow)
    with Disk(path) as disk:
        disk.write(memoryview(b"ab"), 0)
        made.set()
        disk.finish(2)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("call", "error"), [("pwrite", FULL), ("fsync", BROKEN)])
@pytest.mark.parametrize("writes", [1, 2, 9])
def test_what_the_disk_refuses_is_raised(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: OSError, writes: int
) -> None:
    def refuse(*given: object) -> int:
        raise error

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match=error.strerror or ""):
        write_all(path, writes)


def write_all(path: Path, writes: int) -> None:
    with Disk(path) as disk:
        for n in range(writes):
            disk.write(memoryview(bytes(4 * BLOCK)), 4 * BLOCK * n)
        disk.finish(4 * BLOCK * writes)
