"""The targets that porter ships: each fact has its source, each answer about an operator is the vendor's."""

from __future__ import annotations

import re
import subprocess
from itertools import permutations

import onnx
import pytest

from porter.target import Device, Frontend, devices, find_device, find_target, frontends
from porter.target.compile import PLACEHOLDERS


def since_version(op_type: str, opset: int) -> int:
    return onnx.defs.get_schema(op_type, opset).since_version


def takes(frontend: str, op_type: str, **types: str) -> str | None:
    opset = frontends()[frontend].opset
    return frontends()[frontend].takes("", op_type, since_version(op_type, opset), types)


# --------------------------------------------------------------------------------- every target


CARDS = {**devices(), **{name: card for device in devices().values() for name, card in device.variants.items()}}
FACTS = ("soc", "dtypes", "memory_bytes", "memory_bandwidth", "rates", "link")
WIDTHS = {"float64": 64, "float32": 32, "tf32": 19, "float16": 16, "bfloat16": 16, "int16": 16, "int8": 8}
WIDTHS |= {"float8e4m3fn": 8, "int4": 4, "float4e2m1": 4}


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS.keys())
def test_a_card_can_be_a_target_and_each_fact_has_its_source(card: Device) -> None:
    assert find_device(card.name)[0] == card
    for frontend in card.frontends:
        target = find_target(card.name, frontend)
        assert target.frontend.name == frontend
        assert target.dtypes()
    assert set(card.sources) == {fact for fact in FACTS if getattr(card, fact)}
    assert all(source.strip() for source in [*card.sources.values(), *card.notes])


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS.keys())
def test_figures_are_of_a_card(card: Device) -> None:
    """In bytes, bytes per second and operations per second: a slip of a thousand shows."""
    assert card.memory_bytes is None or 8e9 <= card.memory_bytes <= 3e11
    assert card.memory_bandwidth is None or 1e11 <= card.memory_bandwidth <= 1e13
    assert all(5e11 <= rate <= 1e16 for rate in card.rates.values())
    for (one, rate), (other, faster) in permutations(card.rates.items(), 2):
        assert WIDTHS[one] <= WIDTHS[other] or rate <= faster, "the narrower, the faster"
    if card.link and card.link.bandwidth:
        assert 1e10 <= card.link.bandwidth <= 3e12
    if card.dtypes:
        assert set(card.rates) <= {*card.dtypes, "tf32"}


def test_a_card_without_a_front_end_is_there_to_be_compared_with_or_says_why() -> None:
    for card in CARDS.values():
        if not card.frontends and card.vendor != "NVIDIA":
            assert any("ONNX" in note for note in card.notes), card.name


@pytest.mark.parametrize("frontend", frontends().values(), ids=frontends().keys())
def test_a_front_end_feeds_a_device_and_each_fact_has_its_source(frontend: Frontend) -> None:
    assert any(frontend.name in device.frontends for device in devices().values())
    assert frontend.sources.keys() >= {"opset", "ir_version", "dtypes", "minimum_past", "shapes"}
    assert ("operators" in frontend.sources) != frontend.assumed
    stated = [*frontend.checks, *frontend.mappings, *frontend.custom_operators.values()]
    stated += [frontend.compile] if frontend.compile else []
    assert all(one.source.strip() for one in stated)
    assert all(check.name and check.reason for check in frontend.checks)
    assert "known-operators" in {check.name for check in frontend.checks}


@pytest.mark.parametrize("frontend", frontends().values(), ids=frontends().keys())
def test_the_opset_that_is_written_is_one_that_the_ir_version_and_onnx_know(frontend: Frontend) -> None:
    low, high = frontend.opset_range
    assert low <= frontend.opset <= min(high, 17), "the dialect's bodies are opset 17: it can be brought down, not up"
    version = onnx.helper.VERSION_TABLE
    oldest = min(row[1] for row in version if row[2] >= frontend.opset)
    assert frontend.ir_version >= oldest


@pytest.mark.parametrize("frontend", frontends().values(), ids=frontends().keys())
def test_fixed_sizes_are_taken_and_need_no_empty_cache(frontend: Frontend) -> None:
    assert "static" in frontend.shapes
    names = {check.name for check in frontend.checks}
    if set(frontend.shapes) == {"static"}:
        assert frontend.minimum_past == 0
        assert "static-shapes-only" in names


@pytest.mark.parametrize("frontend", frontends().values(), ids=frontends().keys())
def test_auto_takes_a_dtype_that_verify_proves_without_widening(frontend: Frontend) -> None:
    """Where front end and device take float32 at all."""
    for device in devices().values():
        if frontend.name in device.frontends:
            target = find_target(device.name, frontend.name)
            takes = "float32" in frontend.dtypes and (not device.dtypes or "float32" in device.dtypes)
            assert (target.dtypes()[0] == "float32") == takes
    assert ("float32" in frontend.dtypes) == (frontend.name != "cann-atc-310p")


@pytest.mark.parametrize("frontend", frontends().values(), ids=frontends().keys())
def test_what_is_written_into_a_shell_is_shell(frontend: Frontend) -> None:
    if frontend.compile is None:
        return
    for command in (frontend.compile.command, frontend.compile.version or ":"):
        for placeholder in PLACEHOLDERS:
            command = command.replace(f"{{{placeholder}}}", "x")
        assert "{" not in command.replace("${", "")
        assert subprocess.run(["sh", "-n"], input=command, text=True, check=False).returncode == 0
        for python in re.findall(r"<<'PY'\n(.*?)\nPY\n", command, re.DOTALL):
            compile(python, frontend.name, "exec")


@pytest.mark.parametrize("frontend", frontends().values(), ids=frontends().keys())
def test_the_table_names_operators_of_the_standard_only(frontend: Frontend) -> None:
    standard = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert set(frontend.operators or ()) <= standard


@pytest.mark.parametrize("frontend", frontends().values(), ids=frontends().keys())
def test_types_are_called_as_in_the_schema(frontend: Frontend) -> None:
    """A row whose name for a type matches no parameter and no input would never refuse anything."""
    for op_type, rows in (frontend.operators or {}).items():
        known = {"input0"}
        for version in {schema.since_version for schema in history(op_type)}:
            schema = onnx.defs.get_schema(op_type, version)
            known |= {constraint.type_param_str for constraint in schema.type_constraints}
            known |= {parameter.name for parameter in (*schema.inputs, *schema.outputs)}
        for row in rows:
            assert row.types.keys() <= known, op_type


def history(op_type: str) -> list[onnx.defs.OpSchema]:
    return [one for one in onnx.defs.get_all_schemas_with_history() if (one.domain, one.name) == ("", op_type)]


# --------------------------------------------------------------------------------- real operators


@pytest.mark.parametrize("op_type", ["Loop", "Scan", "MatMulInteger", "QuantizeLinear", "DFT"])
def test_atc_does_not_know(op_type: str) -> None:
    assert takes("cann-atc", op_type) == "unknown operator"


@pytest.mark.parametrize("op_type", ["RMSNormalization", "RotaryEmbedding", "Attention", "Swish", "Gelu"])
def test_no_front_end_with_a_table_knows_what_came_after_its_opset(op_type: str) -> None:
    for frontend in ("cann-atc", "onnxruntime-musa"):
        assert not frontends()[frontend].has(op_type, onnx.defs.get_schema(op_type, 24).since_version)


def test_atc_takes_what_a_decoder_needs() -> None:
    for dtype in ("float32", "float16", "bfloat16"):
        for op_type in ("MatMul", "Softmax", "Add", "Mul", "Div", "Sqrt", "ReduceMean", "Sigmoid", "Gather"):
            assert takes("cann-atc", op_type, input0=dtype) is None
    for op_type in ("Concat", "Slice", "Split", "TopK", "Trilu", "ScatterND", "Where", "LayerNormalization"):
        assert takes("cann-atc", op_type) is None


def test_atc_refuses_a_dtype_without_a_kernel() -> None:
    assert takes("cann-atc", "Expand", input0="int64") is not None
    assert takes("cann-atc", "ScatterElements", input0="int64") is not None
    assert takes("cann-atc", "MatMul", input0="float64") is not None
    assert takes("cann-atc", "Add", input0="int64") is None


def test_atc_looks_operators_up_at_the_opset_of_the_model() -> None:
    atc = frontends()["cann-atc"]
    assert takes("cann-atc", "GreaterOrEqual") is None
    assert takes("cann-atc", "Reshape") is None
    assert atc.takes("", "BitwiseAnd", 17, {}) == "known only at opsets 18, not 17"
    assert [row.opsets for row in (atc.operators or {})["GreaterOrEqual"]] == [((8, 8), (12, 18))]


@pytest.mark.parametrize("op_type", ["Sin", "Cos", "Trilu", "ArgMax", "ReduceMin", "Scan", "CastLike"])
def test_musa_does_not_know(op_type: str) -> None:
    assert takes("onnxruntime-musa", op_type) == "unknown operator"


def test_musa_takes_what_a_decoder_needs() -> None:
    for dtype in ("float32", "float16", "bfloat16"):
        for op_type in ("MatMul", "Softmax", "Add", "Mul", "Div", "Sqrt", "ReduceMean", "Sigmoid", "Gather"):
            assert takes("onnxruntime-musa", op_type, T=dtype) is None
    for op_type in (
        "Loop",
        "If",
        "Where",
        "GreaterOrEqual",
        "ScatterND",
        "TopK",
        "NonZero",
        "CumSum",
        "Constant",
    ):
        assert takes("onnxruntime-musa", op_type) is None


def test_musa_refuses_a_dtype_without_a_kernel() -> None:
    assert takes("onnxruntime-musa", "LayerNormalization", T="float16") == "dtype float16 for T not in float32"
    assert takes("onnxruntime-musa", "CumSum", T="bfloat16") is not None
    assert takes("onnxruntime-musa", "Gather", T="float32", Tind="int32") is None
    assert takes("onnxruntime-musa", "Range", T="float16") is not None


def test_the_310p_lacks_what_the_910b_has() -> None:
    assert takes("cann-atc-310p", "Abs", input0="bfloat16") is not None
    assert takes("cann-atc-310p", "Abs", input0="int64") is not None  # the 910B has it
    assert takes("cann-atc", "Abs", input0="int64") is None
    for op_type in ("MatMul", "Softmax", "Add", "ReduceMean", "Sigmoid", "Gather", "Where"):
        assert takes("cann-atc-310p", op_type) is None
        assert frontends()["cann-atc-310p"].operators.keys() == frontends()["cann-atc"].operators.keys()


def test_the_cann_provider_has_less_than_the_parser_below_it() -> None:
    provider, parser = frontends()["onnxruntime-cann"].operators, frontends()["cann-atc"].operators
    assert provider is not None
    assert parser is not None
    assert set(provider) < set(parser)
    assert {name: parser[name] for name in provider} == dict(provider)
    assert {"LayerNormalization", "Trilu", "Einsum", "If", "CastLike"}.isdisjoint(provider)


# taken and not taken, of the published lists: where a table was read wrongly, one of these shows
LISTS = {
    "migraphx": (
        "Loop Scan If TopK NonZero LessOrEqual QuantizeLinear MatMulInteger",
        "BitwiseOr SequenceAt Attention",
    ),
    "onnxruntime-maca": (
        "Where ScatterND ScatterElements Loop If Trilu HardSwish TopK",
        "LessOrEqual NonZero LSTM GRU",
    ),
    "tpu-mlir": ("If Reciprocal TopK ScatterND ScatterElements LessOrEqual", "CastLike Scan Size IsNaN ReduceL2 Loop"),
    "rknn-toolkit2": (
        "ScatterND LessOrEqual Sin Cos Reciprocal TopK Size",
        "ScatterElements Loop Range CumSum GatherND Neg Min If LayerNormalization",
    ),
    "nncase": ("ScatterND TopK LessOrEqual Trilu Range Neg Einsum", "Reciprocal ScatterElements NonZero Loop If"),
    "ixrt": ("MatMul Softmax Where ScatterND TopK", "NonZero Loop LessOrEqual Range If"),
}


@pytest.mark.parametrize("frontend", LISTS)
def test_what_a_published_list_has_and_lacks(frontend: str) -> None:
    has, lacks = (names.split() for names in LISTS[frontend])
    opset = frontends()[frontend].opset
    assert [n for n in has if not frontends()[frontend].has(n, since_version(n, opset))] == []
    assert [n for n in lacks if frontends()[frontend].has(n, onnx.defs.get_schema(n, 24).since_version)] == []


@pytest.mark.parametrize("opset", range(11, 17))
def test_maca_keeps_most_of_what_a_decoder_needs_at_its_opset(opset: int) -> None:
    maca = frontends()["onnxruntime-maca"]

    def kept(version: int) -> int:
        return sum(
            onnx.defs.has(name, version, "") and maca.has(name, onnx.defs.get_schema(name, version).since_version)
            for name in (*maca.operators, *PORTABLE, "Trilu", "GreaterOrEqual")
        )

    assert kept(opset) <= kept(maca.opset)


PORTABLE = tuple(frontends()["ixrt"].operators)


@pytest.mark.parametrize("frontend", ["onnxruntime-musa", "migraphx", "tpu-mlir", "rknn-toolkit2"])
def test_what_is_assumed_is_on_every_published_list(frontend: str) -> None:
    found = frontends()[frontend]
    assert [n for n in PORTABLE if not found.has(n, since_version(n, 17))] == []


def test_onnxruntime_takes_the_whole_standard_and_nothing_else() -> None:
    assert takes("onnxruntime", "Trilu", T="float16") is None
    assert frontends()["onnxruntime"].takes("npu", "NPURmsNorm", 1, {}) == "unknown operator"


def test_rms_norm_is_mapped_only_at_the_epsilon_that_the_plugin_uses() -> None:
    atc = frontends()["cann-atc"]
    (mapping,) = [mapping for mapping in atc.mappings if mapping.function == "RMSNorm"]
    given = {"x": "bfloat16", "weight": "bfloat16"}
    assert mapping.operators == ("npu::NPURmsNorm",)
    assert mapping.applies({"epsilon": 1e-6}, given)
    assert not mapping.applies({"epsilon": 1e-5}, given)
    assert atc.takes("npu", "NPURmsNorm", 1, {"x": "bfloat16", "gamma": "bfloat16"}) is None
