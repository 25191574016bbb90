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


def written(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


@pytest.mark.parametrize(("name", "frontend", "network"), CASES)
def test_a_pass_keeps_the_interface_and_has_nothing_to_do_twice(name: str, frontend: str, network: str) -> None:
    model = onnx_run.built(NETWORKS[network]())
    for earlier in frontends()[frontend].passes[: frontends()[frontend].passes.index(name)]:
        passes()[earlier](frontends()[frontend])(model)
    before, bytes_before = interface(model), written(model)
    assert passes()[name](frontends()[frontend])(model).modified == (written(model) != bytes_before)
    assert interface(model) == before
    once = written(model)
    assert not passes()[name](frontends()[frontend])(model).modified
    assert written(model) == once


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("frontend", sorted(frontends()))
def test_the_passes_of_a_front_end_have_nothing_to_do_twice(frontend: str, network: str) -> None:
    model = onnx_run.built(NETWORKS[network]())
    steps = [passes()[name] for name in frontends()[frontend].passes]
    for step in steps:
        step(frontends()[frontend])(model)
    once = written(model)
    assert not any(step(frontends()[frontend])(model).modified for step in steps)
    assert written(model) == once


@pytest.mark.parametrize("frontend", sorted(frontends()))
def test_the_passes_that_a_front_end_names_are_there(frontend: str) -> None:
    assert set(frontends()[frontend].passes) <= set(passes())


@pytest.mark.parametrize("name", sorted(passes()))
def test_a_pass_gives_the_same_graph_every_time(name: str) -> None:
    models = [onnx_run.built(onnx_run.latent()) for _ in range(2)]
    for model in models:
        passes()[name](frontends()["cann-atc"])(model)
    one, other = map(written, models)
    assert one == other
