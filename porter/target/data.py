"""What is known of a device and of a front end, and the questions that the lowering asks of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from porter.target.custom import STANDARD_DOMAINS, CustomOperator, OperatorMapping


@dataclass(frozen=True)
class Row:
    """One registration of an operator.

    `types` goes by ONNX type parameter (`T`, `Tind`) or by position (`input0`), as the vendor's table does.
    What the vendor does not state is not there, and any dtype passes.
    """

    opsets: tuple[tuple[int, int], ...]
    types: Mapping[str, frozenset[str]]

    def holds_at(self, version: int) -> bool:
        return any(low <= version <= high for low, high in self.opsets)


@dataclass(frozen=True)
class Check:
    """A rule that a lowered graph must keep."""

    name: str
    reason: str
    source: str


@dataclass(frozen=True)
class Frontend:
    """The vendor's way in for ONNX. `sources` says of each fact where it was read."""

    name: str
    title: str
    vendor: str
    opset: int
    opset_range: tuple[int, int]
    opset_rule: Literal["model", "since_version"]
    ir_version: int
    dtypes: tuple[str, ...]
    minimum_past: int
    passes: tuple[str, ...]
    checks: tuple[Check, ...]
    operators: Mapping[str, tuple[Row, ...]] | None  # None: every operator of the ONNX standard at the opset
    operator_notes: Mapping[str, str]  # operator → what it asks beyond opset and dtype
    custom_operators: Mapping[str, CustomOperator]  # by identifier
    mappings: tuple[OperatorMapping, ...]
    command: str | None
    sources: Mapping[str, str]

    def has(self, op_type: str, since_version: int) -> bool:
        """Whether the standard operator is known at all, of whatever dtype."""
        return self.takes("", op_type, since_version, {}) is None

    def takes(self, domain: str, op_type: str, since_version: int, types: Mapping[str, str]) -> str | None:
        """None when the operator is taken, else one clause that says why it is not.

        `since_version` is that of the operator's schema at `self.opset`; `types` gives the dtype of each type
        parameter and of each input by position: `{"T": "float32", "input0": "float32"}`.
        """
        if domain not in STANDARD_DOMAINS:
            return self._takes_custom(domain, op_type, types)
        if self.operators is None:
            return None
        rows = self.operators.get(op_type, ())
        version = self.opset if self.opset_rule == "model" else since_version
        refusals = [_dtype_refusal(row.types, types) for row in rows if row.holds_at(version)]
        if None in refusals:
            return None
        return refusals[0] if refusals else _opset_refusal(rows, version)

    def _takes_custom(self, domain: str, op_type: str, types: Mapping[str, str]) -> str | None:
        operator = self.custom_operators.get(f"{domain}::{op_type}")
        if operator is None:
            return "unknown operator"
        names = {f"input{index}": name for index, name in enumerate(operator.inputs)}
        return _dtype_refusal(operator.dtypes, {names.get(key, key): dtype for key, dtype in types.items()})


@dataclass(frozen=True)
class Link:
    """What joins the cards; bandwidths are bytes per second of one card."""

    name: str
    bandwidth: float | None
    directions: int | None  # 1: each way, 2: both ways together, None: the source does not say
    topology: str | None
    cards: int | None  # how many it joins
    between_nodes: float | None


@dataclass(frozen=True)
class Device:
    """A card. What is None or missing is unknown; `sources` says of each fact where it was read.

    `variants` are the cards sold under the same name, each a device that also says where they differ.
    """

    name: str
    title: str
    vendor: str
    frontends: tuple[str, ...]
    soc: str | None  # the vendor's compiler's name for it
    memory_bytes: int | None
    memory_bandwidth: float | None
    rates: Mapping[str, float]  # dtype → operations per second, dense
    link: Link | None
    variants: Mapping[str, Device]
    sources: Mapping[str, str]


@dataclass(frozen=True)
class Target:
    """Where a port goes: one device, through one of the front ends that feed it."""

    device: Device
    frontend: Frontend

    @property
    def name(self) -> str:
        return self.device.name


def _dtype_refusal(known: Mapping[str, frozenset[str]], types: Mapping[str, str]) -> str | None:
    for parameter, dtype in types.items():
        if parameter in known and dtype not in known[parameter]:
            return f"dtype {dtype} for {parameter} not in {', '.join(sorted(known[parameter]))}"
    return None


def _opset_refusal(rows: tuple[Row, ...], version: int) -> str:
    if not rows:
        return "unknown operator"
    ranges = sorted(span for row in rows for span in row.opsets)
    known = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
    return f"known only at opsets {known}, not {version}"
