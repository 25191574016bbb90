"""A new device is a TOML file: its name, its opset, the operators that it takes. No Python is touched."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import tiny
from command import run

# 22 operators, none of them Split, Softmax, Sigmoid, Gemm, TopK, ScatterND, Unsqueeze or LessOrEqual
FEW = """Add Sub Mul Div Sqrt Exp MatMul Transpose Reshape Concat Slice Gather Where Greater Equal And Cast ReduceMean
ReduceMax ReduceSum ArgMax Expand"""
MORE = f"{FEW} Shape Range Squeeze Unsqueeze"


def target(folder: Path, operators: str, opset: int = 13) -> Path:
    """The file, as somebody writes it who has read a vendor's list."""
    rows = [f'{name} = [{{ opsets = "1-{opset}" }}]' for name in operators.split()]
    path = folder / "npu.toml"
    path.write_text("\n".join(['name = "small-npu"', f"opset = {opset}", "", "[operators]", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def qwen3_moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("qwen3_moe"), tiny.sample("qwen3_moe"))


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("name", ["llama", "deepseek", "qwen3_moe"])
def test_few_operators_are_enough_in_fixed_sizes(
    name: str, opset: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    checkpoint: Path = request.getfixturevalue(name)
    own, port = target(tmp_path, FEW, opset), tmp_path / "port"
    found = run("convert", checkpoint, "--target", own, "-o", port, "--shape", "sequence=6,context=48", "--json")
    assert (found.code, found.json()["target"]) == (0, "small-npu"), found
    for file in ("prefill.onnx", "decode.onnx"):
        model = onnx.load(port / file, load_external_data=False)
        assert {node.op_type for node in model.graph.node} <= set(FEW.split())
        assert [(one.domain, one.version) for one in model.opset_import] == [("", opset)]
    verdict = run("verify", port, "--against", checkpoint, "--level", "semantics", "--tokens", 4, "--json")
    assert verdict.code == 0, verdict


def test_a_growing_cache_takes_a_few_more(deepseek: Path, tmp_path: Path) -> None:
    own, port = target(tmp_path, MORE), tmp_path / "port"
    assert run("convert", deepseek, "--target", own, "-o", port).code == 0
    assert run("verify", port, "--against", deepseek, "--level", "semantics", "--tokens", 4).code == 0


def test_what_is_not_there_is_named_with_the_way_out(deepseek: Path, tmp_path: Path) -> None:
    arguments = ["convert", deepseek, "--target", target(tmp_path, FEW), "-o", tmp_path / "port", "--json"]
    refusal = run(*arguments).refusal()
    assert "Shape (opset 13): unknown operator" in refusal
    assert "--shape" in refusal
    without = FEW.replace("MatMul", "")
    refusal = run(*arguments[:3], target(tmp_path, without), *arguments[4:], "--shape", "context=48").refusal()
    assert "model.layers.0.self_attn.q_a_proj.Gemm: Gemm (opset 13): unknown operator" in refusal
    assert not (tmp_path / "port").exists()


def test_its_table_decides_dtypes_too(deepseek: Path, tmp_path: Path) -> None:
    own = target(tmp_path, FEW)
    own.write_text(own.read_text().replace('Sqrt = [{ opsets = "1-13" }]', SQRT_IN_FLOAT16))
    refusal = run(
        "convert", deepseek, "--target", own, "-o", tmp_path / "port", "--shape", "context=48", "--json"
    ).refusal()
    assert "dtype float32 for T not in float16" in refusal


SQRT_IN_FLOAT16 = 'Sqrt = [{ opsets = "1-13", types = { T = ["float16"] } }]'


def test_a_device_says_what_it_computes_in(deepseek: Path, tmp_path: Path) -> None:
    """Its file has the front end inside; auto takes the most exact dtype that both take, and says so."""
    own = target(tmp_path, FEW)
    text = own.read_text().replace('name = "small-npu"', 'dtypes = ["float32", "float16"]\nname = "way"')
    body = text.replace("[operators]", "[frontend.operators]")
    own.write_text(f'name = "small-npu"\ndtypes = ["float16", "int8"]\n[frontend]\n{body}')
    arguments = ["convert", deepseek, "--target", own, "-o", tmp_path / "port", "--shape", "context=48", "--json"]
    found = run(*arguments).json()
    assert (found["frontend"], found["dtype"]) == ("way", "float16")
    assert "small-npu and way both take" in found["dtype_reason"]
    assert "takes no port in float32" in run(*arguments[:5], tmp_path / "p", *arguments[6:], "--dtype", "float32").err


@pytest.mark.parametrize(
    ("old", "new", "says", "hint"),
    [
        ("opset =", "opst =", "no key is called 'opst'", "did you mean 'opset'?"),
        ('"1-13"', '"13-1"', "runs upwards", ""),
        ("[operators]", 'passes = ["lowr"]\n[operators]', "lowr", "did you mean 'lower'?"),
    ],
)
def test_a_mistake_is_told_with_file_key_and_the_nearest_word(
    old: str, new: str, says: str, hint: str, deepseek: Path, tmp_path: Path
) -> None:
    own = target(tmp_path, FEW)
    own.write_text(own.read_text().replace(old, new))
    refusal = run(
        "convert", deepseek, "--target", own, "-o", tmp_path / "port", "--shape", "context=48", "--json"
    ).refusal()
    assert says in refusal
    assert hint in refusal


def test_what_is_known_of_it_is_told_like_that_of_any_other(tmp_path: Path) -> None:
    own = target(tmp_path, FEW)
    assert "small-npu" in run("targets", own).out
    cells = run("targets", own, "--coverage", "--json").json()["cells"]
    assert {cell["frontend"] for cell in cells} == {"small-npu"}
