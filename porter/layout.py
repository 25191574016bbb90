"""How a network is divided over cards: which of them a rank is, and its share of every size.

cards = tp * ep * pp, and a rank's number is (stage * ep + e) * tp + t: the cards of a tensor-parallel group, which talk
most, stand side by side. Tokens are the same on all cards of a stage. Heads, inner sizes and the vocabulary are divided
over tp, experts over ep, layers over pp; what is not divided is on every card of its stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from porter.errors import FamilyError

GROUPS = ("tp", "ep", "stage")  # of cards that sum or gather: tensor-parallel, expert-parallel, both at once


@dataclass(frozen=True)
class Share:
    """One of `parts` equal parts."""

    parts: int = 1
    index: int = 0

    def of(self, size: int) -> int:
        """How much of a size that is."""
        return size // self.parts

    def span(self, size: int) -> tuple[int, int]:
        """Where it begins, and where the next part does."""
        return self.index * self.of(size), (self.index + 1) * self.of(size)


WHOLE = Share()


class Indivisible(FamilyError):
    """A size that the cards do not divide."""


@dataclass(frozen=True)
class Layout:
    """A rank among tp * ep * pp cards."""

    tp: int = 1
    ep: int = 1
    pp: int = 1
    rank: int = 0

    @property
    def cards(self) -> int:
        """How many cards there are."""
        return self.tp * self.ep * self.pp

    @property
    def stage(self) -> int:
        """Its stage of the pipeline."""
        return self.rank // (self.tp * self.ep)

    @property
    def first(self) -> bool:
        """Whether it has the embedding."""
        return self.stage == 0

    @property
    def last(self) -> bool:
        """Whether it has the head."""
        return self.stage == self.pp - 1

    def ranks(self) -> list[Layout]:
        """All cards, in order."""
        return [Layout(self.tp, self.ep, self.pp, rank) for rank in range(self.cards)]

    def group(self, name: str) -> tuple[int, ...]:
        """The cards of its group, in the order of their shares; it is one of them."""
        stage, inner = self.stage * self.tp * self.ep, self.tp * self.ep
        tensor = self.rank - self.rank % self.tp
        members = {
            "tp": range(tensor, tensor + self.tp),
            "ep": range(stage + self.rank % self.tp, stage + inner, self.tp),
            "stage": range(stage, stage + inner),
        }
        return tuple(members[name])

    def widest(self) -> str:
        """The name of the smallest group that holds all cards of its stage."""
        return "tp" if self.ep == 1 else "ep" if self.tp == 1 else "stage"

    def divided(self, size: int, what: str) -> Share:
        """Its part of something divided over the tensor-parallel cards. Raises Indivisible."""
        if size % self.tp:
            raise _indivisible(size, what, "tp", self.tp)
        return Share(self.tp, self.rank % self.tp)

    def shared(self, size: int, what: str) -> Share:
        """The same where several cards may have one and the same part, each of size 1, of what there is too little."""
        if size < self.tp and self.tp % size == 0:
            return Share(size, self.rank % self.tp * size // self.tp)
        return self.divided(size, what)

    def experts(self, count: int) -> Share:
        """Its part of the experts. Raises Indivisible."""
        if count % self.ep:
            raise _indivisible(count, "experts", "ep", self.ep)
        return Share(self.ep, self.rank // self.tp % self.ep)

    def layers(self, count: int) -> range:
        """Its layers: as many as any other stage has, or one more. Raises Indivisible where there are too few."""
        if count < self.pp:
            raise _indivisible(count, "layers", "pp", self.pp)
        each, more = divmod(count, self.pp)
        start = self.stage * each + min(self.stage, more)
        return range(start, start + each + (self.stage < more))


ONE_CARD = Layout()


@dataclass(frozen=True)
class Cut:
    """Which part of a whole weight a rank holds: a share of each axis. `whole` may have more axes than the weight."""

    whole: tuple[int, ...]
    shares: tuple[Share, ...]

    @property
    def width(self) -> int:
        """The numbers in a row of the whole; a vector's rows are single numbers."""
        return self.whole[-1] if len(self.whole) > 1 else 1

    @property
    def columns(self) -> tuple[int, int] | None:
        """Which of them; None for all."""
        whole = len(self.whole) == 1 or self.shares[-1].parts == 1
        return None if whole else self.shares[-1].span(self.whole[-1])

    def rows(self) -> Iterator[tuple[int, int]]:
        """The rows of the whole, in runs that follow one another: first, and the one after the last."""
        count = max(1, len(self.whole) - 1)
        return _runs(self.whole[:count], self.shares[:count])


def cut_of(whole: tuple[int, ...], *shares: Share) -> Cut | None:
    """The cut of a weight; None where nothing of it is left out."""
    return None if all(share.parts == 1 for share in shares) else Cut(whole, shares)


def _runs(sizes: tuple[int, ...], shares: tuple[Share, ...]) -> Iterator[tuple[int, int]]:
    inner = math.prod(sizes[1:])
    start, stop = shares[0].span(sizes[0])
    if all(share.parts == 1 for share in shares[1:]):
        yield start * inner, stop * inner
        return
    for n in range(start, stop):
        yield from ((n * inner + a, n * inner + b) for a, b in _runs(sizes[1:], shares[1:]))


def _indivisible(size: int, what: str, option: str, parts: int) -> Indivisible:
    verb = "are too few for" if option == "pp" else "are not divided by"
    return Indivisible(f"{size} {what} {verb} --{option} {parts}", f"choose another --{option}")
