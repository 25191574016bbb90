"""A vendor's own operators, and the functions of the neutral dialect that are written in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ctypes import c_float
from dataclasses import dataclass

from porter.errors import TargetError, known_names
from porter.target.dtypes import Groups, read_types
from porter.target.table import Table, refuse_twice

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
KINDS = ("int", "float", "string", "ints")  # of attributes
BOUNDS = ("equals", "at_most", "at_least", "multiple_of")  # of a mapping's condition
SIGNATURE = re.compile(r"\s*\(([^()]*)\)\s*=>\s*\(([^()]*)\)\s*\{.*\}\s*", re.DOTALL)
OPERATOR = re.compile(r"=\s*([A-Za-z_][\w.]*)\.(\w+)\s*[<(]")  # npu.NPURmsNorm, com.microsoft.MatMulNBits
REFERENCE = re.compile(r"@([A-Za-z_]\w*)(?:/(\d+))?")  # @block, or a whole part of it: @block/2


@dataclass(frozen=True)
class CustomOperator:
    """An operator of the vendor's own; `meaning` is what it computes, an ONNX function in text form.

    `attributes` are those that the vendor's parser reads: one that is written and not read is a wrong number later.
    """

    name: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    optional: frozenset[str]
    input_counts: tuple[int, ...]  # how many a node may have: where a parser takes 3 or 5, it does not take 4
    outputs: tuple[str, ...]
    attributes: Mapping[str, str]  # name → kind
    required: tuple[str, ...]  # attributes that every node writes, be it because the vendor's default is a trap
    dtypes: Mapping[str, frozenset[str]]
    source: str
    meaning: str | None

    @property
    def identifier(self) -> str:
        return f"{self.domain}::{self.name}"


@dataclass(frozen=True)
class OperatorMapping:
    """A body of a function of the neutral dialect in the vendor's operators, and where it holds."""

    function: str
    body: str  # ONNX text, with @name for an attribute of the call, as `spelled` fills it in
    inputs: tuple[str, ...]  # of the function, by name: exactly those that a call must give
    outputs: tuple[str, ...]
    operators: tuple[str, ...]  # of the vendor, by identifier
    attributes: tuple[str, ...]  # of the call, that the body asks for
    when: Mapping[str, object]
    dtypes: Mapping[str, frozenset[str]]  # by input
    reason: str
    source: str

    def applies(self, attributes: Mapping[str, object], dtypes: Mapping[str, str]) -> bool:
        """Whether it holds for a call with these attributes, defaults included, and these inputs of these dtypes."""
        return (
            dtypes.keys() == set(self.inputs)
            and all(dtypes[name] in known for name, known in self.dtypes.items())
            and all(_holds(stated, attributes.get(name), attributes) for name, stated in self.when.items())
            and all(attributes.get(name) is not None for name in self.attributes)
        )

    def spelled(self, attributes: Mapping[str, object]) -> str:
        """The body with the call's attributes written in. Raises TargetError for a part that is not a whole number."""

        def literal(reference: re.Match[str]) -> str:
            name, part = reference.groups()
            value = attributes[name]
            if part is None:
                return f'"{value}"' if isinstance(value, str) else repr(value)
            if not isinstance(value, int) or value % int(part):
                raise TargetError(f"{self.function}: {name} is {value}, which {part} does not divide", self.reason)
            return str(value // int(part))

        return REFERENCE.sub(literal, self.body)


def _holds(stated: object, found: object, attributes: Mapping[str, object]) -> bool:
    """Whether an attribute that is `found` is what a condition says: a value, or a table of bounds."""
    if not isinstance(stated, dict):
        return _same(stated, found)
    for bound, limit in stated.items():
        if bound == "equals":
            if found is None or not _same(attributes.get(limit), found):
                return False
        elif not isinstance(found, int | float) or not _within(bound, limit, found):
            return False
    return True


def _within(bound: str, limit: float, found: float) -> bool:
    match bound:
        case "at_most":
            return found <= limit
        case "at_least":
            return found >= limit
        case _:
            return found % limit == 0


def _same(stated: object, found: object) -> bool:
    """Compare as ONNX stores them: a float is a float32, so 1e-6 comes back as 9.999999974752427e-07."""
    if isinstance(stated, float) and isinstance(found, int | float):
        return c_float(stated).value == c_float(found).value
    return stated == found


# ------------------------------------------------------------------------------ reading


def read_custom_operators(tables: list[Table], groups: Groups) -> dict[str, CustomOperator]:
    """The operators by identifier. Raises TargetError for what is missing, unknown or contradictory."""
    found: dict[str, CustomOperator] = {}
    for table in tables:
        operator = _custom_operator(table, groups)
        refuse_twice(table, operator.identifier, found)
        found[operator.identifier] = operator
    return found


def _custom_operator(table: Table, groups: Groups) -> CustomOperator:
    table.only(field for field in CustomOperator.__dataclass_fields__ if field != "optional")
    given = table.texts("inputs")
    inputs, optional = tuple(n.removeprefix("?") for n in given), frozenset(n[1:] for n in given if n.startswith("?"))
    attributes = table.table("attributes")
    kinds = {name: _kind(attributes, name) for name in attributes}
    operator = CustomOperator(
        name=table.need("name", str),
        domain=table.need("domain", str),
        version=table.need("version", int),
        inputs=inputs,
        optional=optional,
        input_counts=_counts(table, inputs, optional),
        outputs=table.texts("outputs"),
        attributes=kinds,
        required=table.texts("required") if "required" in table else (),
        dtypes=read_types(table.table("dtypes"), groups),
        source=table.need("source", str),
        meaning=table.get("meaning", str),
    )
    if operator.domain in STANDARD_DOMAINS:
        raise table.refusal("domain", f"is '{operator.domain}'", "operators of ONNX stand in [operators]")
    _refuse_strangers(table, "dtypes", operator.dtypes, inputs, "input")
    _refuse_strangers(table, "required", operator.required, kinds, "attribute")
    return operator


def _refuse_strangers(table: Table, key: str, names: Iterable[str], known: Iterable[str], what: str) -> None:
    known = tuple(known)
    for name in names:
        if name not in known:
            raise table.refusal(key, f"names no {what}: '{name}'", known_names(name, known))


def _kind(attributes: Table, name: str) -> str:
    kind = attributes.need(name, str)
    if kind not in KINDS:
        raise attributes.refusal(name, f"is '{kind}'", f"say what it is: {', '.join(KINDS)}")
    return kind


def _counts(table: Table, inputs: tuple[str, ...], optional: frozenset[str]) -> tuple[int, ...]:
    """How many inputs a node may have: any number from the last that is needed, unless the vendor says which."""
    least = max((i for i, name in enumerate(inputs, start=1) if name not in optional), default=0)
    counts: list[object] = table.get("input_counts", list) or [*range(least, len(inputs) + 1)]
    if any(type(n) is not int or not least <= n <= len(inputs) for n in counts):
        hint = f"it names {len(inputs)} inputs, the first {least} of them needed"
        raise table.refusal("input_counts", f"is {counts}", hint)
    return tuple(n for n in counts if isinstance(n, int))


def read_mappings(
    tables: list[Table], customs: Mapping[str, CustomOperator], groups: Groups
) -> tuple[OperatorMapping, ...]:
    """The mappings in their order: the first that applies is taken. Raises TargetError for what cannot be used."""
    mappings: list[OperatorMapping] = []
    for table in tables:
        mapping = _mapping(table.only(("function", "body", "when", "dtypes", "reason", "source")), groups)
        _refuse_unusable(table, mapping, customs)
        if any(_condition(other) == _condition(mapping) for other in mappings):
            hint = "say it once, or tell them apart in 'when': the first would always be used"
            raise table.refusal("function", f"'{mapping.function}' is mapped twice", hint)
        mappings.append(mapping)
    return tuple(mappings)


def _condition(mapping: OperatorMapping) -> tuple[object, ...]:
    return mapping.function, mapping.when, mapping.dtypes, set(mapping.inputs)


def _mapping(table: Table, groups: Groups) -> OperatorMapping:
    body = table.need("body", str)
    signature = SIGNATURE.fullmatch(body)
    if signature is None:
        hint = "write a function without its name: (x, weight) => (y) { y = npu.NPURmsNorm (x, weight) }"
        raise table.refusal("body", "has no signature", hint)
    inputs, outputs = (tuple(n.strip() for n in part.split(",") if n.strip()) for part in signature.groups())
    dtypes = read_types(table.table("dtypes"), groups)
    _refuse_strangers(table, "dtypes", dtypes, inputs, "input")
    return OperatorMapping(
        function=table.need("function", str),
        body=body,
        inputs=inputs,
        outputs=outputs,
        operators=tuple(dict.fromkeys(f"{domain}::{name}" for domain, name in OPERATOR.findall(body))),
        attributes=tuple(dict.fromkeys(name for name, _ in REFERENCE.findall(body))),
        when=_conditions(table.table("when")),
        dtypes=dtypes,
        reason=table.need("reason", str),
        source=table.need("source", str),
    )


def _refuse_unusable(table: Table, mapping: OperatorMapping, customs: Mapping[str, CustomOperator]) -> None:
    if not mapping.operators:
        hint = "one is written with its domain: npu.NPURmsNorm"
        raise table.refusal("body", "names no operator of the vendor's", hint)
    for name in mapping.operators:
        if name not in customs:
            hint = f"a mapping leads to a custom_operator of the same file; {known_names(name, customs)}"
            raise table.refusal("body", f"names '{name}', which is not defined", hint)
        if customs[name].meaning is None:
            hint = "a port runs on ONNX Runtime by the meaning: without it nothing can be proved"
            raise table.refusal("body", f"names '{name}', which has no meaning", hint)


def _conditions(table: Table) -> dict[str, object]:
    for name, value in table.data.items():
        if isinstance(value, dict):
            bounds = table.table(name).only(BOUNDS)
            for bound in bounds:
                _need_bound(bounds, bound)
        elif type(value) not in (int, float, str):
            raise table.refusal(name, f"is {value!r}", f"a number, a text, or a table of {', '.join(BOUNDS)}")
    return dict(table.data)


def _need_bound(bounds: Table, bound: str) -> None:
    if bound == "equals":
        bounds.need(bound, str)
    elif bound == "multiple_of":
        bounds.positive(bound, int)
    elif type(bounds.data[bound]) not in (int, float):
        raise bounds.refusal(bound, f"is {bounds.data[bound]!r}", "write a number")
