"""A headless Chromium, spoken to over two pipes: opens a page from the disk in a size and a colour scheme, and tells
what it asked for and complained of.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")


@dataclass(frozen=True)
class Seen:
    """A page that was opened: what it complained of, the addresses that it asked for, its width and the window's."""

    complaints: list[str]
    asked: list[str]
    scroll_width: int
    inner_width: int
    picture: bytes  # PNG


class Browser:
    """Commands go out and answers come in as JSON, each ended by a zero byte."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._ids, self._data = itertools.count(1), b""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.page(f"{domain}.enable")

    def ask(self, method: str, session: str | None = None, **given: object) -> dict[str, Any]:
        number = next(self._ids)
        command = {"id": number, "method": method, "params": given} | ({"sessionId": session} if session else {})
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def page(self, method: str, **given: object) -> dict[str, Any]:
        return self.ask(method, self._session, **given)

    def wait(self, event: str) -> None:
        while event not in [seen["method"] for seen in self.events]:
            self._next()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._data:
            more = os.read(self._answers, 1 << 20)
            assert more, "the browser went away"
            self._data += more
        message, _, self._data = self._data.partition(b"\0")
        answer = json.loads(message)
        if "method" in answer and hasattr(self, "events"):
            self.events.append(answer)
        return dict(answer)

    def look_at(self, path: Path, width: int, scheme: str, unfold: bool = False) -> Seen:
        """The page as it is after it was loaded; with everything that it hides, where asked for."""
        self.events.clear()
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.page("Emulation.setDeviceMetricsOverride", **size)
        self.page("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.page("Page.navigate", url=path.as_uri())
        self.wait("Page.loadEventFired")
        if unfold:
            self.value("document.querySelectorAll('details').forEach(d => d.open = true)")
        widths = [int(self.value(words)) for words in ("document.documentElement.scrollWidth", "innerWidth")]
        picture = self.page(
            "Page.captureScreenshot", captureBeyondViewport=True, **_whole(self.page("Page.getLayoutMetrics"))
        )
        complaints = [json.dumps(e["params"]) for e in self.events if e["method"] in COMPLAINTS]
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return Seen(complaints, asked, *widths, base64.b64decode(picture["data"]))

    def value(self, expression: str) -> Any:
        return self.page("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")


COMPLAINTS = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}


def _whole(metrics: dict[str, Any]) -> dict[str, Any]:
    size = metrics["cssContentSize"]
    return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12000), "scale": 1}}


@contextmanager
def browser(home: Path) -> Iterator[Browser]:
    """One that lives as long as it is asked; its profile is in `home`."""
    assert CHROMIUM
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs_in, theirs_out)]  # neither is 3 or 4
    process = _spawn([CHROMIUM, *FLAGS, f"--user-data-dir={home}"], ends)
    for end in (theirs_in, theirs_out, *ends):
        os.close(end)
    try:
        yield Browser(commands, answers)
    finally:
        os.close(commands)  # which ends it
        os.close(answers)
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _spawn(command: Sequence[str], ends: Sequence[int]) -> int:
    """With the two ends as its files 3 and 4, and silent."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    files = [
        (os.POSIX_SPAWN_DUP2, end, number)
        for end, number in ((nowhere, 1), (nowhere, 2), *zip(ends, (3, 4), strict=True))
    ]
    try:
        return os.posix_spawn(command[0], command, os.environ, file_actions=files, setpgroup=0)
    finally:
        os.close(nowhere)
