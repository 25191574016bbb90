"""Which targets a test can convert for as they are: front ends that take open sizes and float32, a device for each."""

from __future__ import annotations

from typing import Any

import pytest

from porter.target import devices, find_target, frontends

TURN = 5  # of the pairs that a discovered test could take, one in so many is taken by default

OPEN = sorted(name for name, found in frontends().items() if found.open_sizes)
LISTED = [name for name in OPEN if not frontends()[name].assumed]  # graphs of open sizes ask for more than is assumed
FED = {feed: name for name, device in reversed(devices().items()) for feed in device.frontends}
# (device, front end), each front end once: of those that take open sizes, and of all, which take fixed ones
PAIRS = [(FED[feed], feed) for feed in LISTED if "float32" in find_target(FED[feed], feed).dtypes()]
FIXED = [(FED[feed], feed) for feed in frontends() if "float32" in find_target(FED[feed], feed).dtypes()]
DEVICES = sorted({device for device, feed in PAIRS if devices()[device].frontends[0] == feed})


def in_turn(*numbers: int) -> Any:
    """The mark of a pair, of family and front end for example, by their numbers: slow unless it is its turn. So each is
    met by default, by some of the others, and `make test-all` takes all.
    """
    return () if sum(numbers) % TURN == 0 else pytest.mark.slow
