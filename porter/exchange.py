"""What cards of a split port hand one another, as porter.json tells it: who, what, when, how many bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["AllReduce", "AllGather", "Send"]
ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Exchange:
    """An exchange behind a segment, between the cards of each of `groups`.

    AllReduce: each gives x [tokens, width], and takes the sum of all. AllGather: takes all cards' x behind one another
    along the last axis. Send: a group is a pair, the first gives and the second takes.
    """

    kind: Kind
    over: str  # tp, ep, stage (both), pp
    stage: int  # of the cards that give
    after: int  # number of the segment that leaves what is given
    groups: tuple[tuple[int, ...], ...]
    gives: str  # names of values
    takes: str
    dtype: str
    width: int

    @property
    def bytes_per_token(self) -> int:
        """Of what one card gives; tokens = batch * sequence."""
        return self.width * ITEMSIZE[self.dtype]

    @property
    def sent_per_token(self) -> float:
        """Bytes that one card sends in a ring, which is the least there is: what it gives, twice without its own share
        where it is summed (once to add, once to spread), and to each other card where it is gathered.
        """
        size = len(self.groups[0])
        times = {"AllReduce": 2 * (size - 1) / size, "AllGather": size - 1, "Send": 1}
        return times[self.kind] * self.bytes_per_token

    @property
    def givers(self) -> int:
        """How many cards give something."""
        return sum(1 if self.kind == "Send" else len(group) for group in self.groups)

    def group_of(self, rank: int) -> tuple[int, ...] | None:
        """The cards that a rank exchanges with, itself among them; None where it has no part in it."""
        return next((group for group in self.groups if rank in group), None)

    def to_json(self) -> dict[str, Any]:
        """As porter.json has it."""
        return {
            "kind": self.kind,
            "over": self.over,
            "stage": self.stage,
            "after": self.after,
            "groups": [list(group) for group in self.groups],
            "gives": self.gives,
            "takes": self.takes,
            "dtype": self.dtype,
            "shape": ["tokens", self.width],
            "bytes_per_token": self.bytes_per_token,
            "sent_bytes_per_token": self.sent_per_token,
        }

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Exchange:
        """Out of porter.json."""
        names = ("kind", "over", "stage", "after", "gives", "takes", "dtype")
        groups = tuple(tuple(group) for group in told["groups"])
        return cls(**{name: told[name] for name in names}, groups=groups, width=told["shape"][1])
