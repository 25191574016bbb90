"""Which weights of a network `--quantize` means, and what a network of codes computes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_run import NETWORKS, built, error, feeds, lowered, random_weights, run, tokens

from porter.blocks.decoder import Decoder
from porter.graph import DOMAIN
from porter.package.plan import DTYPES
from porter.quantize import FORMS

ATTENTION = {
    "dense": "q_proj.weight k_proj.weight v_proj.weight o_proj.weight",
    "latent": "q_a_proj.weight q_b_proj.weight kv_a_proj_with_mqa.weight o_proj.weight",
}
MLP = "gate_proj.weight up_proj.weight down_proj.weight"
EXPERTS = "experts.gate_up_proj experts.down_proj"


def meant(network: Decoder) -> dict[int, set[str]]:
    """By layer, without what stands in front of a weight's own place."""
    found: dict[int, set[str]] = {0: set(), 1: set()}
    for parameter in network.quantizable():
        _, _, layer, _, rest = parameter.name.split(".", 4)
        found[int(layer)].add(rest)
    return found


@pytest.mark.parametrize(
    ("network", "first", "second"),
    [
        ("dense", f"{ATTENTION['dense']} {MLP}", f"{ATTENTION['dense']} {MLP}"),
        ("sparse", f"{ATTENTION['dense']} {EXPERTS}", f"{ATTENTION['dense']} {EXPERTS}"),
        ("absorbed", f"{ATTENTION['latent']} {MLP}", f"{ATTENTION['latent']} {EXPERTS} SHARED"),
        ("expanded", f"{ATTENTION['latent']} {MLP}", f"{ATTENTION['latent']} {EXPERTS} SHARED"),
    ],
)
def test_linear_maps_and_experts_are_meant_and_nothing_else(network: str, first: str, second: str) -> None:
    """Neither routers nor norms, biases, embeddings, the output projection, W_UK and W_UV."""
    shared = " ".join(f"shared_experts.{name}" for name in MLP.split())
    found = meant(NETWORKS[network]())
    assert found == {0: set(first.split()), 1: set(second.replace("SHARED", shared).split())}


def test_what_has_no_whole_blocks_stays() -> None:
    network = NETWORKS["dense"]()  # rows of 16, 24 and 20
    network.quantize(FORMS["int4:32"])
    assert [p.quantization for p in network.quantizable()] == [None] * 14
    network.quantize(FORMS["int8"])
    assert {p.quantization for p in network.quantizable()} == {FORMS["int8"]}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_network_of_codes_is_the_network_of_what_they_mean(name: str, dtype: str) -> None:
    plain, network = NETWORKS[name](), NETWORKS[name]()
    network.quantize(FORMS["int8"])
    weights = random_weights(plain.named_parameters())
    codes: dict[str, np.ndarray] = {}
    for parameter in network.quantizable():
        found, scale = FORMS["int8"].encode(weights[parameter.name], parameter.name)
        codes |= {parameter.name: found, f"{parameter.name}_scale": scale}
        weights[parameter.name] = found.astype(np.float32) * scale[..., None]
    given = feeds(plain, tokens(2, 5))
    expected = run(lowered(built(plain, weights)), given)
    model = filled(network, weights | codes, dtype)
    assert {node.op_type for node in model.graph if node.domain == DOMAIN} >= {"QuantizedLinear"}
    given = {n: a.astype(dtype) if a.dtype == np.float32 else a for n, a in given.items()}
    got = run(lowered(model), given)
    assert error(got["logits"], expected["logits"]) < {"float32": 1e-5, "float16": 0.05}[dtype]


def filled(network: Decoder, arrays: dict[str, np.ndarray], dtype: str) -> ir.Model:
    """The network's neutral model with these arrays in it."""
    graph = network.build(DTYPES[dtype])
    for parameter in network.named_parameters():
        for name, kind, shape in parameter.stored(DTYPES[dtype]):
            array = arrays[name].reshape(shape).astype(kind.numpy())
            graph.initializers[name].const_value = ir.tensor(array, name=name)
    return ir.Model(graph, ir_version=8)
