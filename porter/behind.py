"""Work that is done behind the back of who orders it: a thread of its own, one piece at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Behind:
    """A thread that does one thing after the other; who orders the next waits for the last.

    So no more than one piece waits in memory, and an error is raised where the next is ordered, or by `settle`.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[Any] = Future()
        self._last.set_result(None)

    def do(self, work: Callable[..., Any], *given: Any) -> None:
        """Begins a piece of work, once the one before is done."""
        self.settle()
        self._last = self._thread.submit(work, *given)

    def busy(self) -> bool:
        """Whether there is work that is not done."""
        return not self._last.done()

    def settle(self) -> None:
        """Waits for what was ordered last; raises what it raised."""
        self._last.result()

    def end(self) -> None:
        """Waits for what was ordered, whatever became of it, and ends the thread."""
        self._thread.shutdown()
