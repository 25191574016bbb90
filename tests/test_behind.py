"""Work behind the back of who orders it: one piece at a time, in order, and no error is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from porter.behind import Behind


@pytest.fixture
def behind() -> Iterator[Behind]:
    made = Behind()
    yield made
    made.end()


def test_work_is_done_in_order(behind: Behind) -> None:
    done: list[int] = []
    for n in range(50):
        behind.do(done.append, n)
    behind.settle()
    assert done == list(range(50))


def test_who_orders_goes_on_meanwhile(behind: Behind) -> None:
    go_on = threading.Event()
    behind.do(go_on.wait, 10)
    assert behind.busy()
    go_on.set()
    behind.settle()
    assert not behind.busy()


def test_no_more_than_one_piece_waits(behind: Behind) -> None:
    go_on, begun = threading.Event(), threading.Event()
    behind.do(go_on.wait, 10)
    orders = threading.Thread(target=behind.do, args=(begun.set,))
    orders.start()
    assert not begun.wait(0.1)
    go_on.set()
    orders.join()
    behind.settle()
    assert begun.is_set()


@pytest.mark.parametrize("told", ["at the next order", "when settled"])
def test_an_error_is_raised_where_the_next_is_ordered(behind: Behind, told: str) -> None:
    behind.do([].pop)
    with pytest.raises(IndexError):
        behind.do(print) if told == "at the next order" else behind.settle()
