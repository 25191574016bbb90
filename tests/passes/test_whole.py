"""All passes of a front end together: the numbers stay, and every network is taken at fixed sizes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_run
import pytest
import takers

from porter.passes import passes
from porter.port import lower
from porter.shape import Sizes
from porter.target import frontends

NETWORKS = {"dense": onnx_run.dense, "sparse": onnx_run.sparse, "latent": onnx_run.latent}
OLD = sorted(name for name, found in frontends().items() if found.opset < 17)


def written_for(frontend: str, network: str) -> ir.Model:
    """Through all passes of the front end; its rules are not asked."""
    decoder = NETWORKS[network]()
    model = onnx_run.built(decoder, onnx_run.random_weights(decoder.named_parameters()))
    for name in frontends()[frontend].passes:
        passes()[name](frontends()[frontend])(model)
    return model


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("frontend", sorted({*OLD} & {*takers.OPEN}))
def test_an_older_opset_computes_the_same(frontend: str, network: str) -> None:
    model, decoder = written_for(frontend, network), NETWORKS[network]()
    assert model.graph.opset_imports[""] == frontends()[frontend].opset
    feeds = onnx_run.feeds(decoder, onnx_run.tokens(2, 5))
    expected = onnx_run.run(written_for("onnxruntime", network), feeds)["logits"]
    np.testing.assert_allclose(onnx_run.run(model, feeds)["logits"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("frontend", sorted(set(frontends()) - {"cann-atc-310p"}))
def test_every_front_end_takes_every_network_at_fixed_sizes(frontend: str, network: str) -> None:
    """By its own rules; the 310P's is in float16, which these networks of a test are not."""
    decoder = NETWORKS[network]()
    graph, parameters = decoder.build(ir.DataType.FLOAT, Sizes(1, 4, 16, 4)), decoder.named_parameters()
    onnx_run.fill(graph, parameters, onnx_run.random_weights(parameters), ir.DataType.FLOAT)
    model, _ = lower(graph, frontends()[frontend])
    assert model.graph.opset_imports[""] == frontends()[frontend].opset
