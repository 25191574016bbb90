"""The targets that porter ships: each fact has its source, each answer about an operator is the vendor's."""

from __future__ import annotations

import onnx
import pytest

from porter.target import Device, Frontend, devices, find_target, frontends


def since_version(op_type: str, opset: int) -> int:
    return onnx.defs.get_schema(op_type, opset).since_version


def takes(frontend: str, op_type: str, **types: str) -> str | None:
    opset = frontends()[frontend].opset
    return frontends()[frontend].takes("", op_type, since_version(op_type, opset), types)


# --------------------------------------------------------------------------------- every target


@pytest.mark.parametrize("device", devices().values(), ids=devices().keys())
def test_a_device_can_be_a_target_and_each_fact_has_its_source(device: Device) -> None:
    for frontend in device.frontends:
        assert find_target(device.name, frontend).frontend.name == frontend
    for card in (device, *device.variants.values()):
        facts = ("soc", "memory_bytes", "memory_bandwidth", "rates", "link")
        assert set(card.sources) == {fact for fact in facts if getattr(card, fact)}
        assert all(source.strip() for source in card.sources.values())


@pytest.mark.parametrize("frontend", frontends().values(), ids=frontends().keys())
def test_a_front_end_feeds_a_device_and_each_fact_has_its_source(frontend: Frontend) -> None:
    assert any(frontend.name in device.frontends for device in devices().values())
    assert frontend.sources.keys() >= {"opset", "dtypes", "operators", "minimum_past"}
    stated = [*frontend.checks, *frontend.mappings, *frontend.custom_operators.values()]
    assert all(one.source.strip() for one in stated)
    assert all(check.name and check.reason for check in frontend.checks)
    assert "known-operators" in {check.name for check in frontend.checks}


@pytest.mark.parametrize("frontend", frontends().values(), ids=frontends().keys())
def test_auto_takes_a_dtype_that_verify_proves_without_widening(frontend: Frontend) -> None:
    assert frontend.dtypes[0] == "float32"


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
