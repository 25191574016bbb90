"""What is known of a device and of a front end, and the questions that the lowering asks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from porter.target.compile import Compile
from porter.target.custom import STANDARD_DOMAINS, CustomOperator, OperatorMapping


@dataclass(frozen=True)
class Row:
    """One registration of an operator.

    `types` goes by ONNX type parameter (`T`, `Tind`) or by position (`input0`), as the vendor's table does.
    What the vendor does not state is not there, and any dtype passes.
    """

    opsets: tuple[tuple[int, int], ...]
    types: Mapping[str, frozenset[str]]
    ranks: tuple[int, int] | None = None  # of every input

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
    """The vendor's way in for ONNX. `sources` says of each fact where it was read.

    `assumed`: the vendor publishes no list of operators, so one that is taken everywhere stands in for it.
    """

    name: str
    title: str
    vendor: str
    opset: int
    opset_range: tuple[int, int]
    opset_rule: Literal["model", "since_version"]
    ir_version: int
    dtypes: tuple[str, ...]
    minimum_past: int
    shapes: tuple[str, ...]  # how sizes may be given: dynamic, ranges, gears, static
    gears_limit: tuple[int, int] | None  # the fewest and the most
    max_rank: int | None
    max_model_bytes: int | None  # of the .onnx file alone
    external_data: bool | None
    passes: tuple[str, ...]
    checks: tuple[Check, ...]
    operators: Mapping[str, tuple[Row, ...]] | None  # None: every operator of the ONNX standard at the opset
    assumed: bool
    operator_notes: Mapping[str, str]  # operator → what it asks beyond opset and dtype
    custom_operators: Mapping[str, CustomOperator]  # by identifier
    mappings: tuple[OperatorMapping, ...]
    compile: Compile | None  # None: it takes the graph as it is
    notes: tuple[str, ...]
    sources: Mapping[str, str]

    @property
    def open_sizes(self) -> bool:
        """Whether a graph may leave its sizes open, in whatever form the front end then wants them."""
        return "dynamic" in self.shapes or "ranges" in self.shapes

    def has(self, op_type: str, since_version: int) -> bool:
        """Whether the standard operator is known at all, of whatever dtype."""
        return self.takes("", op_type, since_version, {}) is None

    def takes(
        self, domain: str, op_type: str, since_version: int, types: Mapping[str, str], ranks: Sequence[int] = ()
    ) -> str | None:
        """None when the operator is taken, else one clause that says why it is not.

        `since_version` is that of the operator's schema at `self.opset`; `types` gives the dtype of each type
        parameter and of each input by position: `{"T": "float32", "input0": "float32"}`; `ranks` are the inputs'.
        """
        if self.max_rank is not None and max(ranks, default=0) > self.max_rank:
            return f"{max(ranks)} dimensions, more than {self.max_rank}"
        if domain not in STANDARD_DOMAINS:
            return self._takes_custom(domain, op_type, types)
        if self.operators is None:
            return None
        rows = self.operators.get(op_type, ())
        version = self.opset if self.opset_rule == "model" else since_version
        held = [row for row in rows if row.holds_at(version)]
        refusals = [_dtype_refusal(row.types, types) or _rank_refusal(row.ranks, ranks) for row in held]
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
    """What joins the cards; bandwidths are bytes per second of one card, latencies seconds of one message."""

    name: str
    bandwidth: float | None
    directions: int | None  # 1: each way, 2: both ways together, None: the source does not say
    topology: str | None
    cards: int | None  # how many it joins
    between_nodes: float | None
    collectives: str | None = None  # the backend of torch.distributed that speaks over it
    latency: float | None = None
    latency_between_nodes: float | None = None


@dataclass(frozen=True)
class Device:
    """A card. What is None or missing is unknown; `sources` says of each fact where it was read.

    `variants` are the cards sold under the same name, each a device that also says where they differ. Without a front
    end it is there to be compared with, or no way in for ONNX is known.
    """

    name: str
    title: str
    vendor: str
    frontends: tuple[str, ...]
    soc: str | None  # the vendor's compiler's name for it
    dtypes: tuple[str, ...]  # that it computes in; empty: unknown
    memory_bytes: int | None
    memory_bandwidth: float | None
    rates: Mapping[str, float]  # dtype → operations per second, dense
    link: Link | None
    variants: Mapping[str, Device]
    notes: tuple[str, ...]
    sources: Mapping[str, str]


@dataclass(frozen=True)
class Target:
    """Where a port goes: one device, through one of the front ends that feed it."""

    device: Device
    frontend: Frontend

    @property
    def name(self) -> str:
        return self.device.name

    def dtypes(self) -> tuple[str, ...]:
        """The dtypes of a port that front end and device both take, the most exact first."""
        taken = [d for d in self.frontend.dtypes if not self.device.dtypes or d in self.device.dtypes]
        return tuple(sorted(taken, key=lambda dtype: dtype != "float32"))


def _dtype_refusal(known: Mapping[str, frozenset[str]], types: Mapping[str, str]) -> str | None:
    for parameter, dtype in types.items():
        if parameter in known and dtype not in known[parameter]:
            return f"dtype {dtype} for {parameter} not in {', '.join(sorted(known[parameter]))}"
    return None


def _rank_refusal(known: tuple[int, int] | None, ranks: Sequence[int]) -> str | None:
    if known is None or all(known[0] <= rank <= known[1] for rank in ranks):
        return None
    return f"an input of {', '.join(map(str, sorted(set(ranks))))} dimensions, not {known[0]} to {known[1]}"


def _opset_refusal(rows: tuple[Row, ...], version: int) -> str:
    if not rows:
        return "unknown operator"
    ranges = sorted(span for row in rows for span in row.opsets)
    known = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
    return f"known only at opsets {known}, not {version}"
