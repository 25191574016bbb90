"""A file written behind the back of who makes its bytes: in order, whole, and no error is lost."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from porter.package import disk as writing
from porter.package.disk import Disk

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
BROKEN = OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "CALL_BYTES", 3)
    monkeypatch.setattr(writing, "FLUSH_BYTES", 20)


def test_everything_is_where_it_was_put(descriptor: int, tmp_path: Path) -> None:
    expected = bytes(range(100))
    with Disk(descriptor) as disk:
        for start in (50, 0, 70, 90):
            disk.write(memoryview(expected)[start : start + 50], start)
        disk.finish(100)
    assert (tmp_path / "file").read_bytes() == expected


def test_what_was_longer_is_cut(descriptor: int, tmp_path: Path) -> None:
    with Disk(descriptor) as disk:
        disk.write(memoryview(b"abcdef"), 0)
        disk.finish(4)
    assert (tmp_path / "file").read_bytes() == b"abcd"


def test_what_was_written_can_be_read(descriptor: int) -> None:
    with Disk(descriptor) as disk:
        disk.write(memoryview(b"abcdefgh"), 0)
        assert b"".join(disk.read(2, 4)) == b"cdef"
        assert b"".join(disk.read(6, 100)) == b"gh"


def test_who_writes_goes_on_meanwhile(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made, original = threading.Event(), os.pwrite

    def slow(*given: object) -> int:
        assert made.wait(10), "the disk waits for the next bytes, and these wait for the disk"
        return original(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "pwrite", slow)
    with Disk(descriptor) as disk:
        disk.write(memoryview(b"ab"), 0)
        made.set()
        disk.finish(2)


@pytest.mark.parametrize(("call", "error"), [("pwrite", FULL), ("fdatasync", BROKEN)])
@pytest.mark.parametrize("writes", [1, 2, 9])
def test_what_the_disk_refuses_is_raised(
    descriptor: int, monkeypatch: pytest.MonkeyPatch, call: str, error: OSError, writes: int
) -> None:
    """An error of the device is told to one fsync, and to none after it."""

    def refuse(*given: object) -> int:
        raise error

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match=error.strerror or ""):
        write_all(descriptor, writes)


def write_all(descriptor: int, writes: int) -> None:
    with Disk(descriptor) as disk:
        for n in range(writes):
            disk.write(memoryview(bytes(30)), 30 * n)
        disk.finish(30 * writes)
