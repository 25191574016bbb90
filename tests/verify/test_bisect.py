"""Faults are located in dense ports and in latent ones, layer and block; what is saved shows them alone."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from command import run, spawn
from faults import (
    BIAS,
    EXPERTS,
    PLACES,
    Place,
    in_graph,
    in_weight,
    scale_routed_experts_by_two_percent_less,
    transpose,
)
from faults import PLANTED as FAULTS
from onnx import GraphProto
from surgery import constants, graph_of, rewire, set_value, value_of, weight_of

from porter.manifest import open_port
from porter.model import understand
from porter.port import convert
from porter.verify import bisect, replay
from porter.verify.bisect import Bisection, Fault
from porter.verify.dissect import Dissection
from porter.verify.original import Originals
from porter.verify.own_weights import own_weights
from porter.verify.replay import Judgement
from porter.verify.report import Figures, Located
from porter.verify.session import BrokenPort
from porter.verify.stages import Stages, whole
from porter.verify.stories import each_size, stories_of


def scaled(name: str) -> Callable[[Path], None]:
    """A weight that is a little too large."""

    def enlarge(weight: np.ndarray) -> None:
        weight *= np.float32(1.001)

    return in_weight(name, enlarge)


def operator(result: str, kind: str) -> Callable[[GraphProto], None]:
    """Another operator in the place of the one that computes a value."""

    def edit(graph: GraphProto) -> None:
        (node,) = [node for node in graph.node if node.output[0] == result]
        node.op_type = kind

    return edit


def exchanged(result: str) -> Callable[[GraphProto], None]:
    """The two inputs of a node the other way round."""

    def edit(graph: GraphProto) -> None:
        (node,) = [node for node in graph.node if node.output[0] == result]
        node.input[0], node.input[1] = node.input[1], node.input[0]

    return edit


def too_hot(graph: GraphProto) -> None:
    (scale,) = constants(graph, "const.float.scalar.0.288")
    set_value(scale, value_of(scale) * 1.01)


LAYER = "model.layers.1."
DENSE: dict[str, tuple[Callable[[Path], None], Place]] = {
    "embedding": (scaled("model.embed_tokens.weight"), (None, "embed_tokens")),
    "final-norm": (scaled("model.norm.weight"), (None, "norm")),
    "output": (scaled("lm_head.weight"), (None, "lm_head")),
    "rope": (scaled("model.rotary_emb.sin"), (None, "rotary_emb")),
    "transposed": (in_weight(LAYER + "self_attn.o_proj.weight", transpose), (1, "self_attn.o_proj")),
    "values": (scaled(LAYER + "self_attn.v_proj.weight"), (1, "self_attn.v_proj")),
    "second-norm": (scaled(LAYER + "post_attention_layernorm.weight"), (1, "post_attention_layernorm")),
    "queries-turned-back": (in_graph(operator(LAYER + "self_attn.RotaryEmbedding.Sub", "Add")), (1, "self_attn")),
    "keys-turned-back": (in_graph(operator(LAYER + "self_attn.RotaryEmbedding_1.Sub", "Add")), (1, "self_attn")),
    "scale": (in_graph(too_hot), (0, "self_attn")),
    "mask-without-oneself": (in_graph(operator("mask.LessOrEqual", "Less")), (None, "mask")),
    "padding-seen": (
        in_graph(lambda graph: rewire(graph, "mask.And", "mask.Unsqueeze_1", "mask.LessOrEqual")),
        (None, "mask"),
    ),
    "cache-order": (in_graph(exchanged("present.1.key")), (1, "cache")),
    "gate-for-up": (
        in_graph(lambda graph: rewire(graph, "mlp.SwiGLU.Sigmoid", "mlp.gate_proj.Gemm", "mlp.up_proj.Gemm")),
        (0, "mlp"),
    ),
    "norm-passed-by": (
        in_graph(lambda graph: rewire(graph, "mlp.gate_proj.Gemm", "post_attention_layernorm.RMSNorm", "Add")),
        (0, "mlp.gate_proj"),
    ),
    "residual-left-out": (
        in_graph(lambda graph: rewire(graph, "output", "Add", "mlp.down_proj.Gemm")),
        (0, "residual"),
    ),
}
LATENT: dict[str, tuple[Callable[[Path], None], Place]] = {
    "query-norm": (scaled(LAYER + "self_attn.q_a_layernorm.weight"), (1, "self_attn.q_a_layernorm")),
    "latent": (scaled(LAYER + "self_attn.kv_a_proj_with_mqa.weight"), (1, "self_attn.kv_a_proj_with_mqa")),
    "keys-of-the-latent": (scaled(LAYER + "self_attn.kv_b_proj_key"), (1, "self_attn")),
    "shared-expert": (scaled(LAYER + "mlp.shared_experts.down_proj.weight"), (1, "mlp.shared_experts.down_proj")),
    "router": (scaled(LAYER + "mlp.gate.weight"), (1, "mlp.gate")),
    "cache-order": (in_graph(exchanged("present.2.latent")), (2, "cache")),
    "shared-expert-left-out": (
        in_graph(lambda g: rewire(g, "mlp.Add", "mlp.shared_experts.down_proj.Gemm", "mlp.experts.Experts")),
        (1, "mlp"),
    ),
}


@cache
def originals(checkpoint: Path, stages: Stages | None = None) -> Originals:
    return Originals(checkpoint, None, stages or whole(3))


def search(port: Path, checkpoint: Path, stages: Stages | None = None) -> Fault:
    """What is found in all stories, one after the other."""
    opened = open_port(port)
    model = understand(checkpoint, opened.manifest.get("attention") or "auto", opened.quantization)
    original = originals(checkpoint, stages)
    if opened.quantization is not None:  # then it is given what the codes mean
        original = Originals(checkpoint, partial(own_weights, opened, model), original.stages)
    stories = [*stories_of(opened, model, 3)[0], *each_size(opened, model, 3)]
    bisection = Bisection(
        opened,
        model,
        original,
        lambda keys, values: model.family.original_cache(model.config, keys, values),
    )
    return bisection.locate(stories, Figures(), lambda stage: None)


def located(port: Path, checkpoint: Path, stages: Stages | None = None) -> Located:
    found = search(port, checkpoint, stages).located
    assert found is not None
    return found


def verify(port: Path, checkpoint: Path, *more: object) -> tuple[int, dict[str, object]]:
    found = run("verify", port, "--against", checkpoint, "--level", "semantics", "--tokens", 2, "--json", *more)
    return found.code, found.json()


def copy(port: Path, folder: Path) -> Path:
    return Path(shutil.copytree(port, folder / "port"))


@pytest.fixture(scope="module")
def another_epsilon(deepseek_port: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A port with a fault in its first norm."""
    port = copy(deepseek_port, tmp_path_factory.mktemp("faulty"))
    FAULTS["rms-epsilon-1e-5"].plant(port)
    return port


@pytest.fixture(scope="module")
def saved(another_epsilon: Path, deepseek: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The block of it that was written: copy it before you change it."""
    folder = tmp_path_factory.mktemp("saved") / "block"
    assert verify(another_epsilon, deepseek, "--bisect", folder)[0] == 1
    return folder


@pytest.fixture
def block(saved: Path, tmp_path: Path) -> Path:
    """A copy of a saved block."""
    return Path(shutil.copytree(saved, tmp_path / "block"))


# ------------------------------------------------------------------ where it is


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint of a family's sample, written once."""
    return cache(lambda family: tiny.write_sample(tmp_path_factory.mktemp("samples") / family, family))


@pytest.mark.parametrize("name", PLACES)
def test_every_planted_fault_is_located(name: str, sample: Callable[[str], Path], tmp_path: Path) -> None:
    fault, port = FAULTS[name], tmp_path / "port"
    checkpoint = source = sample(FAULTS[name].model)
    if fault.config:
        source = Path(shutil.copytree(checkpoint, tmp_path / "other"))
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(config | fault.config))
    convert(source, "onnxruntime-cpu", port)
    fault.plant(port)
    layers = json.loads((checkpoint / "config.json").read_text())["num_hidden_layers"]
    found = located(port, checkpoint, whole(layers))
    assert (found.layer, found.block) == PLACES[name]


def test_no_planted_fault_is_forgotten() -> None:
    assert set(PLACES) == {name for name, fault in FAULTS.items() if "semantics" in fault.wide}


@pytest.mark.parametrize("fault", LATENT)
def test_a_fault_in_a_latent_model(fault: str, deepseek_port: Path, deepseek: Path, tmp_path: Path) -> None:
    port, (plant, place) = copy(deepseek_port, tmp_path), LATENT[fault]
    plant(port)
    found = located(port, deepseek)
    assert (found.layer, found.block) == place


@pytest.mark.parametrize("fault", DENSE)
def test_a_fault_in_a_dense_model(fault: str, llama_port: Path, llama: Path, tmp_path: Path) -> None:
    port, (plant, place) = copy(llama_port, tmp_path), DENSE[fault]
    plant(port)
    found = located(port, llama)
    assert (found.layer, found.block) == place


@pytest.mark.parametrize("form", ["float16", "int8", "expanded", "fixed"])
def test_in_every_form_of_a_port(form: str, deepseek: Path, tmp_path: Path) -> None:
    """A router that is off in each: narrow, quantized, with heads expanded, in one of two graphs of fixed sizes."""
    options = {
        "float16": {"dtype": "float16"},
        "expanded": {"attention": "expanded"},
        "fixed": {"shape": "sequence=8,context=64"},
        "int8": {"quantize": "int8"},
    }[form]
    target = "ascend-910b" if form == "float16" else "onnxruntime-cpu"
    port = tmp_path / "port"
    convert(deepseek, target, port, **options)
    file = "decode.onnx" if form == "fixed" else "model.onnx"
    with graph_of(port, file) as graph:
        scale_routed_experts_by_two_percent_less(graph)
    code, report = verify(port, deepseek, "--bisect", tmp_path / "block")
    found = report["located"]
    assert isinstance(found, dict)
    assert (code, found["layer"], found["block"], found["graph"]) == (1, 1, "mlp.gate", file)
    assert run("verify", tmp_path / "block", "--replay").code == 1


def window_one_wider(graph: GraphProto) -> None:
    (window,) = constants(graph, "const.int64.scalar.7")
    set_value(window, np.array(8))


def places_one_off(graph: GraphProto) -> None:
    (places,) = constants(graph, "const.int64.64.")
    set_value(places, np.arange(1, 65))


@pytest.mark.parametrize(
    ("edit", "file", "place"),
    [
        (window_one_wider, "prefill.onnx", (None, "mask")),
        (window_one_wider, "decode.onnx", (None, "mask")),
        (places_one_off, "decode.onnx", (0, "cache")),
    ],
)
def test_in_graphs_of_fixed_sizes(edit: Callable[[GraphProto], None], file: str, place: Place, tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample("mistral", sliding_window=7))
    convert(checkpoint, "onnxruntime-cpu", tmp_path / "port", shape="sequence=8,context=64")
    with graph_of(tmp_path / "port", file) as graph:
        edit(graph)
    found = located(tmp_path / "port", checkpoint, whole(2))
    assert (found.layer, found.block, found.graph) == (*place, file)


@pytest.mark.parametrize("memory", [("--layers", "1-2"), ("--memory", "1GB")])
def test_in_a_model_that_is_read_in_parts(
    memory: tuple[str, str], deepseek_port: Path, deepseek: Path, tmp_path: Path
) -> None:
    port = copy(deepseek_port, tmp_path)
    FAULTS["two-experts-swapped"].plant(port)
    code, report = verify(port, deepseek, *memory, "--bisect", tmp_path / "block")
    found = report["located"]
    assert isinstance(found, dict)
    assert (code, found["layer"], found["block"]) == (1, *PLACES["two-experts-swapped"])
    assert run("verify", tmp_path / "block", "--replay").code == 1


def test_no_block_of_a_sound_port_leaves_the_band(
    deepseek_port: Path, deepseek: Path, llama_port: Path, llama: Path
) -> None:
    for port, checkpoint in ((deepseek_port, deepseek), (llama_port, llama)):
        assert search(port, checkpoint).located is None


@pytest.mark.slow
@pytest.mark.parametrize("family", ["deepseek_v2", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"])
@pytest.mark.parametrize("shape", [None, "sequence=8,context=64", "batch=2,sequence=8/16,context=48/64"])
def test_no_block_of_any_family_leaves_the_band(family: str, shape: str | None, tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample(family))
    convert(checkpoint, "onnxruntime-cpu", tmp_path / "port", shape=shape)
    layers = json.loads((checkpoint / "config.json").read_text())["num_hidden_layers"]
    assert search(tmp_path / "port", checkpoint, whole(layers)).located is None


def test_the_verdict_says_where(another_epsilon: Path, deepseek: Path) -> None:
    code, report = verify(another_epsilon, deepseek)
    found = report["located"]
    assert isinstance(found, dict)
    value = "model.layers.0.input_layernorm.RMSNorm"
    assert code == 1
    assert {name: found[name] for name in ("scenario", "quantity", "layer", "block", "value", "graph", "folder")} == {
        "scenario": "prefill",
        "quantity": "values",
        "layer": 0,
        "block": "input_layernorm",
        "value": value,
        "graph": "model.onnx",
        "folder": None,
    }
    assert found["ratio"] > found["limit"] == 10
    figures = report["figures"]
    assert isinstance(figures, dict)
    errors = {error["place"]: error["ratio"] for error in figures["errors"] if error["quantity"] == "input_layernorm"}
    assert errors["0"] == found["ratio"]
    assert list(errors) == ["0", "1", "2"]
    text = run("verify", another_epsilon, "--against", deepseek, "--level", "semantics", "--tokens", 2).out
    assert f"first fault: layer 0, input_layernorm ({value} in model.onnx) in prefill: " in text


# ------------------------------------------------------------------ run alone


def repaired(folder: Path, edit: Callable[[GraphProto], object]) -> Path:
    model = onnx.load(folder / "model.onnx")
    edit(model.graph)
    onnx.save(model, folder / "model.onnx")
    return folder


def swap_back(graph: GraphProto) -> None:
    for part in ("gate_up_proj", "down_proj"):
        (weight,) = constants(graph, EXPERTS + part)
        numbers = value_of(weight)
        numbers[[2, 7]] = numbers[[7, 2]]
        set_value(weight, numbers)


def right_epsilon(graph: GraphProto) -> None:
    (epsilon,) = constants(graph, "const.float.scalar.1e-06")
    set_value(epsilon, np.array(1e-6))


@pytest.mark.parametrize("apart", [False, True])
def test_a_saved_block_fails_alone_until_it_is_repaired(
    apart: bool, deepseek_port: Path, deepseek: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, folder = copy(deepseek_port, tmp_path), tmp_path / "new" / "block"
    FAULTS["two-experts-swapped"].plant(port)
    monkeypatch.setattr(replay, "APART", 1000 if apart else 2**20)  # from so many bytes on weights lie beside the graph
    code, report = verify(port, deepseek, "--bisect", folder)
    shutil.rmtree(port)
    found = report["located"]
    assert isinstance(found, dict)
    assert (code, found["folder"]) == (1, str(folder))
    assert (folder / "weights.bin").exists() is apart
    assert [path.name for path in folder.parent.iterdir()] == ["block"]
    again = run("verify", folder, "--replay", "--json")
    assert (again.code, again.json()["status"]) == (1, "fail")
    assert again.json()["located"]["ratio"] == pytest.approx(found["ratio"])
    mended = run("verify", repaired(folder, swap_back), "--replay", "--json")
    assert (mended.code, mended.json()["status"], mended.json()["located"]) == (0, "pass", None)


def test_one_number_of_the_graph_is_all_that_a_norm_takes(block: Path) -> None:
    assert run("verify", block, "--replay").code == 1
    assert run("verify", repaired(block, right_epsilon), "--replay").code == 0


@pytest.mark.parametrize("form", ["int4:32", "fixed", "bfloat16"])
def test_any_block_can_be_run_alone(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of sound ports, each in its turn taken for a fault: saved and run alone, they are none."""
    checkpoint = tiny.write_checkpoint(
        tmp_path / "checkpoint", tiny.sample("qwen3_moe", hidden_size=64, moe_intermediate_size=32)
    )
    options = {"int4:32": {"quantize": form}, "fixed": {"shape": "sequence=8,context=64"}, "bfloat16": {"dtype": form}}
    convert(checkpoint, "moore-threads-s4000", tmp_path / "port", **options[form])
    calls = itertools.count()
    true, chosen = bisect.judge, 0

    def accuse(*given: Any) -> Judgement:
        found = true(*given)
        return Judgement(np.inf, found.limit) if next(calls) == chosen else found

    monkeypatch.setattr(bisect, "judge", accuse)
    for chosen in range(0, 60, 10):  # among 63 to 69
        calls = itertools.count()
        part = search(tmp_path / "port", checkpoint, whole(3)).part
        assert part is not None
        replay.write(tmp_path / str(chosen), part)
        assert replay.replay(tmp_path / str(chosen)).exit_code == 0, part.facts


def test_without_a_block_the_layer_is_named(
    another_epsilon: Path, deepseek: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(*given: object) -> None:
        raise BrokenPort("it stops")

    monkeypatch.setattr(Dissection, "run", stops)
    code, report = verify(another_epsilon, deepseek, "--bisect", tmp_path / "block")
    found = report["located"]
    assert isinstance(found, dict)
    assert (code, found["layer"], found["block"], found["quantity"]) == (1, 0, None, "layers")
    assert "no block can be named as the first that is wrong: it stops" in report["notes"]  # type: ignore[operator]
    assert not (tmp_path / "block").exists()


def test_a_choice_of_experts_is_run_again(deepseek_port: Path, deepseek: Path, tmp_path: Path) -> None:
    port, block = copy(deepseek_port, tmp_path), tmp_path / "block"
    FAULTS["correction-bias-zero"].plant(port)
    verify(port, deepseek, "--bisect", block)
    found = run("verify", block, "--replay")
    assert found.code == 1
    assert "first fault: layer 2, mlp.gate (model.layers.2.mlp.gate.experts in model.onnx) in prefill: " in found.out
    with weight_of(deepseek_port, BIAS) as right:
        numbers = np.array(right)
    mended = repaired(block, lambda graph: set_value(constants(graph, BIAS)[0], numbers))
    assert run("verify", mended, "--replay").code == 0


def test_a_narrow_port_is_saved_as_it_was_compared(llama: Path, tmp_path: Path) -> None:
    port, block = tmp_path / "port", tmp_path / "block"
    convert(llama, "moore-threads-s4000", port, dtype="bfloat16")
    with graph_of(port) as graph:
        for epsilon in constants(graph, "const.float.scalar.1e-05"):
            set_value(epsilon, np.array(1e-3))
    verify(port, llama, "--bisect", block)
    facts = json.loads((block / "replay.json").read_text())
    assert (facts["dtype"], facts["widened"]) == ("bfloat16", True)
    found = run("verify", block, "--replay", "--json").json()
    assert (found["status"], found["dtype"]) == ("fail", "float32")
    assert "widened to float32" in found["notes"][0]


LOADED = """
import sys
from porter.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("code", end.code, *sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_a_replay_needs_neither_torch_nor_the_original(block: Path) -> None:
    assert spawn("verify", block, "--replay", program=LOADED).out.splitlines()[-1] == "code 1"


def test_a_graph_that_does_not_run_fails(block: Path) -> None:
    repaired(block, lambda graph: graph.node.pop())
    found = run("verify", block, "--replay", "--json")
    assert found.code == 1
    assert "ONNX Runtime does not run it" in found.json()["levels"][0]["checks"][0]["detail"]


def test_nothing_is_written_where_nothing_fails(llama_port: Path, llama: Path, tmp_path: Path) -> None:
    code, report = verify(llama_port, llama, "--bisect", tmp_path / "block")
    assert (code, report["located"]) == (0, None)
    assert f"nothing fails, so no block was written to {tmp_path / 'block'}" in report["notes"]  # type: ignore[operator]
    assert not (tmp_path / "block").exists()


# ------------------------------------------------------------------ refusals


def test_a_folder_that_is_taken_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "mine").write_text("")
    refusal = run("verify", "no-port", "--against", "none", "--bisect", tmp_path / "block").refusal()
    assert "block' is there already" in refusal


def test_blocks_are_for_semantics(tmp_path: Path) -> None:
    refusal = run("verify", "x", "--against", "y", "--level", "weights", "--bisect", tmp_path / "block").refusal()
    assert "--level semantics" in refusal


def test_a_replay_takes_no_checkpoint(tmp_path: Path) -> None:
    assert "leave --against out" in run("verify", tmp_path, "--replay", "--against", "x").refusal()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "it has no replay.json"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"schema_version": 2}', "schema_version 2"),
        ('{"schema_version": 1, "value": "x"}', "cannot be read"),
    ],
)
def test_what_is_no_replay_is_refused(text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "replay.json").write_text(text)
    refusal = run("verify", tmp_path, "--replay", "--json").refusal()
    assert says in refusal
    assert "--bisect FOLDER" in refusal or "bisect again" in refusal


def test_damaged_arrays_are_refused(block: Path) -> None:
    (block / "own.npz").write_bytes(b"PK")
    assert "own.npz' cannot be read" in run("verify", block, "--replay").refusal()
