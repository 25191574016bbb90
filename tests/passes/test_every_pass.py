"""What every pass keeps, whichever passes there are."""

from __future__ import annotations

import onnx_ir as ir
import onnx_run
import pytest
import takers

from porter.passes import passes
from porter.target import frontends

NETWORKS = {"dense": onnx_run.dense, "sparse": onnx_run.sparse, "latent": onnx_run.latent}
CASES = [(p, f, n) for f in takers.OPEN for p in frontends()[f].passes for n in NETWORKS]


def interface(model: ir.Model) -> list[tuple[str | None, ir.DataType | None, str]]:
    return [(v.name, v.dtype, str(v.shape)) for v in (*model.graph.inputs, *model.graph.outputs)]


@pytest.mark.parametrize(("name", "frontend", "network"), CASES)
def test_a_pass_keeps_the_interface_and_has_nothing_to_do_twice(name: str, frontend: str, network: str) -> None:
    model = onnx_run.built(NETWORKS[network]())
    before = interface(model)
    for earlier in frontends()[frontend].passes[: frontends()[frontend].passes.index(name)]:
        passes()[earlier](frontends()[frontend])(model)
    first = passes()[name](frontends()[frontend])(model)
    assert first.modified or name != "lower"
    assert interface(model) == before
    once = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not passes()[name](frontends()[frontend])(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == once


@pytest.mark.parametrize("frontend", sorted(frontends()))
def test_the_passes_that_a_front_end_names_are_there(frontend: str) -> None:
    assert set(frontends()[frontend].passes) <= set(passes())


@pytest.mark.parametrize("name", sorted(passes()))
def test_a_pass_gives_the_same_graph_every_time(name: str) -> None:
    models = [onnx_run.built(onnx_run.latent()) for _ in range(2)]
    for model in models:
        passes()[name](frontends()["cann-atc"])(model)
    one, other = (ir.to_proto(m).SerializeToString(deterministic=True) for m in models)
    assert one == other
