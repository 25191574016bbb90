"""Where the port is run at the levels that measure it: here, emulated; or as it is deployed, by a program on the
device's host or by a provider of ONNX Runtime.

As it is deployed means the graph's own file, at its own dtype, on routes that it chooses itself. The weights level
needs no device, and semantics, which widens the graph and forces its routes, cannot be had from one: it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from porter.errors import ParityError
from porter.verify.conditions import check_installed

if TYPE_CHECKING:
    from porter.verify.runtime import Runtime

WITHOUT = "semantics was left out: it widens the graph and forces routes, which is done without --runtime or --provider"


@dataclass(frozen=True)
class Where:
    """What the user asked for: a program's command line, a provider's name, or neither."""

    command: str | None = None
    provider: str | None = None

    @property
    def name(self) -> str | None:
        """As the verdict calls it."""
        return f"provider:{self.provider}" if self.provider is not None else self.command

    def levels(self, asked: Sequence[str], layers: str | None) -> tuple[Sequence[str], list[str]]:
        """The levels that can be had there, and what the verdict says of the others.

        Raises ParityError for what cannot be had at all.
        """
        if self.command is not None and self.provider is not None:
            raise ParityError("--runtime and --provider are two ways to run the port", "give one of them")
        if layers is not None:
            hint = "leave --layers out, or verify a slice without --runtime and --provider"
            raise ParityError("a slice of layers is cut out of the graph: that is not the port as it is deployed", hint)
        if not {"dtype", "distribution"} & set(asked):
            message = f"the {asked[0]} level does not run the port as it is deployed"
            raise ParityError(message, "with --runtime or --provider take --level dtype, distribution or all")
        return [level for level in asked if level != "semantics"], [WITHOUT] * ("semantics" in asked)

    def runtime(self) -> Runtime | None:
        """What runs the port; None where nothing was asked for. Raises ParityError for what is not there."""
        if self.provider is not None:
            from porter.verify.provider import Provider

            return Provider(self.provider)
        if self.command is not None:
            from porter.verify.program import Program

            return Program(self.command)
        return None


def deployment(
    where: Where, levels: Sequence[str], layers: str | None
) -> tuple[Sequence[str], Runtime | None, list[str]]:
    """The levels that can be had, what runs the port in the emulation's stead, and what the verdict says of both."""
    if where.name is None:
        return levels, None, []
    levels, notes = where.levels(levels, layers)
    check_installed(levels[-1])
    return levels, where.runtime(), notes
