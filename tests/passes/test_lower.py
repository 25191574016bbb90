"""Lowering: keep, map, expand, or refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnx_run
import pytest
import takers

from porter.dialect import FUNCTIONS, RMS_NORM
from porter.errors import TargetError
from porter.graph import DOMAIN, Graph, all_nodes
from porter.passes.lower import Lower
from porter.target import frontends

NETWORKS = {"dense": onnx_run.dense, "sparse": onnx_run.sparse, "latent": onnx_run.latent}
WATCHED = (".output", ".logits", ".experts")


def norm(epsilon: float) -> ir.Model:
    """One RMSNorm as a model."""
    x, weight = onnx_run.normals("float32", (3, 8), (8,))
    return onnx_run.model_of(lambda graph, x, w: RMS_NORM(graph, x, w, epsilon=epsilon), x, weight)


def operators(model: ir.Model) -> list[str]:
    return [f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in all_nodes(model.graph)]


def names(model: ir.Model) -> list[str]:
    """Every value that verify watches."""
    return sorted(str(v.name) for n in model.graph for v in n.outputs if str(v.name).endswith(WATCHED))


@pytest.mark.parametrize(("epsilon", "mapped"), [(1e-6, True), (1e-5, False), (1.1e-6, False)])
def test_a_mapping_holds_under_its_conditions_only(epsilon: float, mapped: bool) -> None:
    model = norm(epsilon)
    Lower(frontends()["cann-atc"])(model)
    assert ("npu::NPURmsNorm" in operators(model)) == mapped
    assert bool(model.functions) == mapped
    assert model.graph.opset_imports == ({"": 17, "npu": 1} if mapped else {"": 17})


def test_what_is_mapped_has_a_name_for_every_output() -> None:
    model = norm(1e-6)
    Lower(frontends()["cann-atc"])(model)
    (node,) = model.graph
    assert [str(v.name) for v in node.outputs] == ["out0", "RMSNorm.NPURmsNorm.1"]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("frontend", takers.OPEN)
def test_no_function_of_the_dialect_is_left(network: str, frontend: str) -> None:
    model = onnx_run.built(NETWORKS[network]())
    wanted = names(model)
    step = Lower(frontends()[frontend])
    step(model)
    assert not [n for n in all_nodes(model.graph) if n.domain == DOMAIN]
    assert names(model) == wanted, "what verify watches keeps its name"
    assert step.report(model)["kept"] == sum("::" not in name for name in operators(model))


def test_the_counts_of_a_report_are_what_happened() -> None:
    model = onnx_run.built(onnx_run.dense(epsilon=1e-6))
    norms = operators(model).count("porter::RMSNorm")
    functions = sum(name.startswith("porter::") for name in operators(model))
    step = Lower(frontends()["cann-atc"])
    step(model)
    report = step.report(model)
    assert (report["mapped"], report["expanded"]) == (norms, functions - norms)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_front_end_computes_the_same(network: str) -> None:
    results = []
    for frontend in takers.OPEN:
        decoder = NETWORKS[network]()
        model = onnx_run.built(decoder, onnx_run.random_weights(decoder.named_parameters()))
        Lower(frontends()[frontend])(model)
        results.append(onnx_run.run(model, onnx_run.feeds(decoder, onnx_run.tokens(2, 5)))["logits"])
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-4, atol=1e-5)


def test_a_front_end_without_loop_takes_the_body_behind_an_if() -> None:
    model = onnx_run.built(onnx_run.sparse())
    Lower(frontends()["cann-atc"])(model)
    assert "Loop" not in operators(model)
    assert "If" in operators(model)


def test_a_front_end_with_neither_takes_all_experts() -> None:
    bare = frontends()["cann-atc"]
    assert bare.operators is not None
    bare = replace(bare, operators={n: rows for n, rows in bare.operators.items() if n != "If"})
    model = onnx_run.built(onnx_run.sparse())
    Lower(bare)(model)
    assert not {"Loop", "If"} & set(operators(model))


def test_a_function_that_no_body_fits_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = frontends()["cann-atc"]
    assert bare.operators is not None
    bare = replace(bare, operators={n: rows for n, rows in bare.operators.items() if n != "If"})
    monkeypatch.setattr(FUNCTIONS["Experts"], "bodies", FUNCTIONS["Experts"].bodies[:2])
    with pytest.raises(TargetError, match=r"mlp\.experts.*no body of Experts: it lacks If, Loop"):
        Lower(bare)(onnx_run.built(onnx_run.sparse()))


def test_a_call_of_no_function_is_refused() -> None:
    graph = Graph()
    x = graph.input("x", ir.DataType.FLOAT, [2])
    graph.output(graph.call("Softmin", [x], [ir.DataType.FLOAT], {}), "y", [2])
    with pytest.raises(TargetError, match="no function 'Softmin'"):
        Lower(frontends()["onnxruntime"])(ir.Model(graph.root, ir_version=8))
