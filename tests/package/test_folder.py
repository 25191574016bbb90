"""The port folder comes whole or not at all; what is unfinished waits under a lock for the same parameters."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from bindings import left_in

from porter.errors import FamilyError, Interrupted, PortError
from porter.package.files import MANIFEST, write_file
from porter.package.folder import Destination, new_folder

Usage = namedtuple("Usage", "total used free")
ASKED = {"dtype": "float32", "checkpoint": "abc"}
WORK = ".port.unfinished"


def make(output: Path, text: bytes = b"{}", parameters: Mapping[str, Any] = ASKED, **more: Any) -> None:
    with new_folder(Destination(output, **more), parameters, 0) as folder:
        write_file(folder, MANIFEST, text)


def fail_inside(output: Path, error: BaseException, *, finished: bool = False, **more: Any) -> None:
    with new_folder(Destination(output, **more), ASKED, 0) as folder:
        write_file(folder, "half", b"written")
        if finished:
            (folder.parent / "half.journal").write_text("a line\n")
        raise error


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with new_folder(Destination(tmp_path / "port"), ASKED, 0) as folder:
        write_file(folder, MANIFEST, b"{}")
        assert not (tmp_path / "port").exists()
    assert left_in(tmp_path) == ["port"]
    assert left_in(tmp_path / "port") == [MANIFEST]


ERRORS = [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left"), FamilyError("x")]


@pytest.mark.parametrize("error", ERRORS)
def test_nothing_is_left_where_nothing_was_finished(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(PortError if isinstance(error, OSError) else type(error)):
        fail_inside(tmp_path / "new" / "parents" / "port", error)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(("error", "becomes"), list(zip(ERRORS, (ValueError, Interrupted, PortError), strict=False)))
def test_what_is_finished_waits(tmp_path: Path, error: BaseException, becomes: type[Exception]) -> None:
    output = tmp_path / "new" / "port"
    with pytest.raises(becomes) as raised:
        fail_inside(output, error, finished=True)
    assert "same command" in getattr(raised.value, "hint", "same command")
    assert not output.exists()
    with new_folder(Destination(output), ASKED, 0) as folder:
        assert (folder / "half").read_bytes() == b"written"
        (folder / "half").rename(folder / MANIFEST)
    assert left_in(tmp_path / "new") == ["port"]


def test_a_fault_of_the_checkpoint_does_not_wait(tmp_path: Path) -> None:
    """The same parameters would meet it again."""
    with pytest.raises(FamilyError):
        fail_inside(tmp_path / "port", FamilyError("a value too large"), finished=True)
    assert left_in(tmp_path) == []


def test_other_parameters_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"):
        fail_inside(tmp_path / "port", ValueError("x"), finished=True)
    with pytest.raises(PortError, match="another dtype") as refused:
        make(tmp_path / "port", parameters=ASKED | {"dtype": "float16"})
    assert "same parameters" in refused.value.hint
    assert (tmp_path / WORK / "port" / "half").exists(), "what was finished is still there"
    make(tmp_path / "port", parameters=ASKED | {"dtype": "float16"}, force=True)
    assert left_in(tmp_path / "port") == [MANIFEST]


def test_spoilt_parameters_are_no_obstacle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"):
        fail_inside(tmp_path / "port", ValueError("x"), finished=True)
    (tmp_path / WORK / "parameters.json").write_bytes(b"\x00\x00")
    make(tmp_path / "port")
    assert left_in(tmp_path / "port") == [MANIFEST]


def test_two_at_once(tmp_path: Path) -> None:
    with new_folder(Destination(tmp_path / "port"), ASKED, 0) as folder:
        with pytest.raises(PortError, match="another porter is writing"):
            make(tmp_path / "port")
        write_file(folder, MANIFEST, b"{}")
    assert left_in(tmp_path) == ["port"]


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from porter.package.folder import Destination, new_folder\n"
        f"with new_folder(Destination(Path(sys.argv[1])), {ASKED!r}, 0) as folder:\n"
        "    (folder.parent / 'w.journal').write_text('a line')\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "port"], check=False).returncode == 9
    assert left_in(tmp_path) == [WORK]
    make(tmp_path / "port")
    assert left_in(tmp_path) == ["port"]


def test_a_port_that_is_there_outlives_a_failure(tmp_path: Path) -> None:
    make(tmp_path / "port", b"old")
    with pytest.raises(ValueError, match="x"):
        fail_inside(tmp_path / "port", ValueError("x"), force=True)
    assert (tmp_path / "port" / MANIFEST).read_text() == "old"
    make(tmp_path / "port", b"new", force=True)
    assert (tmp_path / "port" / MANIFEST).read_text() == "new"
    assert left_in(tmp_path) == ["port"]


def test_a_port_taken_away_for_one_that_never_came_is_put_back(tmp_path: Path) -> None:
    """The plug was pulled between the two renames."""
    make(tmp_path / "port", b"old")
    (tmp_path / WORK).mkdir()
    (tmp_path / "port").rename(tmp_path / WORK / "replaced")
    with pytest.raises(PortError, match="exists"):
        make(tmp_path / "port")
    assert (tmp_path / "port" / MANIFEST).read_text() == "old"
    assert left_in(tmp_path) == ["port"]


def test_a_port_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with (
        pytest.raises(PortError, match="exists"),
        new_folder(Destination(tmp_path / "port"), ASKED, 0),
    ):
        (tmp_path / "port").mkdir()
    assert left_in(tmp_path) == ["port"]


def test_room_is_asked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 20 * 2**20))
    to = Destination(tmp_path / "port")
    with pytest.raises(PortError, match="MB free"), new_folder(to, ASKED, 10 * 2**20):
        pytest.fail("there is no room for this")
    with new_folder(to, ASKED, 2**20) as folder:
        write_file(folder, MANIFEST, b"{}")


def test_what_is_written_already_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = Destination(tmp_path / "port")
    with contextlib.suppress(ZeroDivisionError), new_folder(to, ASKED, 0) as folder:
        write_file(folder, "half", bytes(10 * 2**20))
        (folder.parent / "half.journal").write_text("a line\n")
        _ = 1 / 0
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 20 * 2**20))
    with new_folder(to, ASKED, 12 * 2**20):
        pass
    assert (to.output / "half").stat().st_size == 10 * 2**20


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_force_replaces_ports_only(tmp_path: Path, kind: str) -> None:
    output, port = tmp_path / "output", tmp_path / "port"
    port.mkdir()
    (port / MANIFEST).write_text("{}")
    makers = {"folder": output.mkdir, "file": output.touch, "link": lambda: output.symlink_to(port)}
    makers[kind]()
    with pytest.raises(PortError, match="not a port"):
        Destination(output, force=True).refuse()
    Destination(port, force=True).refuse()


def test_the_umask_is_kept(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        make(tmp_path / "port")
    finally:
        os.umask(before)
    assert [p.stat().st_mode & 0o077 for p in (tmp_path / "port", tmp_path / "port" / MANIFEST)] == [0, 0]
