"""Ports for several cards: each rank computes its share, and together they are what one card computes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import packing
import pytest
import tiny
import torch
from command import digests, run
from surgery import weight_of

from porter.errors import Interrupted
from porter.exchange import Exchange
from porter.families import families
from porter.manifest import open_port
from porter.model import understand
from porter.port import convert
from porter.verify.original import Originals
from porter.verify.runs import open_run
from porter.verify.semantics import Semantics
from porter.verify.stages import whole
from porter.verify.stories import stories_of
from porter.verify.weights import check_weights

MLP = {"intermediate_size": 84, "moe_intermediate_size": 24}
# What of the samples does not divide by two is a little larger here.
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"num_attention_heads": 4, "hidden_size": 64, "vocab_size": 104, "attention_bias": True, "mlp_bias": True},
    "mistral": {"num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 64, "vocab_size": 100},
    "qwen2": {"num_attention_heads": 4, "hidden_size": 64, "vocab_size": 104},  # tied, one key-value head on two cards
    "qwen3": {"vocab_size": 112},
    "mixtral": {"num_local_experts": 4, "vocab_size": 96},
    "qwen3_moe": {"num_attention_heads": 4, "num_experts": 8, "vocab_size": 100},
    "deepseek_v2": MLP
    | {"n_routed_experts": 8, "vocab_size": 108, "attention_bias": True, "mlp_bias": True, "q_lora_rank": 20},
    "deepseek_v3": MLP | {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 112, "n_group": 2},
}
LAYOUTS = [{"tp": 2}, {"pp": 2}, {"tp": 2, "pp": 2}, {"ep": 2}, {"tp": 2, "ep": 2}]
MORE = [{"tp": 4}, {"ep": 4}, {"tp": 2, "ep": 2, "pp": 2}, {"tp": 4, "ep": 2}, {"tp": 4, "pp": 2}]


def trials() -> list[Any]:
    """Every family with every layout that it can have; products and larger ones by and by."""
    found = []
    for name, family in families().items():
        layers = family.build(family.read(tiny.sample(name)), "auto").model.layers
        routed = any(hasattr(layer.mlp, "experts") for layer in layers)
        for layout in (*LAYOUTS, *MORE):
            if routed or "ep" not in layout:
                marks = pytest.mark.slow if layout in MORE or name not in SIZES else ()
                parts = "-".join(f"{key}{n}" for key, n in layout.items())
                found.append(pytest.param(name, layout, id=f"{name}-{parts}", marks=marks))
    return found


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's checkpoint whose sizes divide."""
    torch.set_num_threads(1)

    @lru_cache
    def write(family: str) -> Path:
        folder = tmp_path_factory.mktemp("checkpoints") / family
        return tiny.write_checkpoint(folder, tiny.sample(family, **SIZES.get(family, {})))

    return write


@pytest.fixture(scope="module")
def originals(checkpoint: Callable[[str], Path]) -> Callable[[str], Originals]:
    """Its original; the last is kept, since its layouts come one after the other."""

    @lru_cache(maxsize=1)
    def load(family: str) -> Originals:
        folder = checkpoint(family)
        return Originals(folder, None, whole(understand(folder).config.num_hidden_layers))

    return load


def assert_parity(port_folder: Path, folder: Path, original: Originals) -> None:
    """The weights are the checkpoint's, and every story ends as the original's."""
    port = open_port(port_folder)
    model = understand(folder, port.manifest["attention"] or "auto")
    assert [c for c in check_weights(port, model).checks if c.status != "pass"] == []
    forced = open_run(port, model, original.stages, forced=True)
    to_entries = partial(model.family.original_cache, model.config)
    sides = Semantics(lambda stage: forced, original.exact, original.at("float32"), to_entries)
    checks = sides.walk(stories_of(port, model, 3)[0], lambda stage: None)
    assert len(checks) > 10
    assert [c for c in checks if c.status != "pass"] == []


@pytest.mark.parametrize(("family", "layout"), trials())
def test_ranks_together_compute_what_the_original_does(
    family: str,
    layout: dict[str, int],
    checkpoint: Callable[[str], Path],
    originals: Callable[[str], Originals],
    tmp_path: Path,
) -> None:
    convert(checkpoint(family), "onnxruntime-cpu", tmp_path / "port", **layout)
    assert_parity(tmp_path / "port", checkpoint(family), originals(family))


# ------------------------------------------------------------------------------ what is refused

REFUSED = [
    ("llama", {}, {"tp": 3}, "4 attention heads are not divided by --tp 3", "these do: --tp 2 or 4"),
    ("llama", {"vocab_size": 101}, {"tp": 2}, "101 words of the vocabulary are not divided by --tp 2", "--tp 1"),
    ("llama", {"num_key_value_heads": 4}, {"tp": 8}, "4 attention heads are not divided by --tp 8", "--tp 4"),
    ("mixtral", {"num_local_experts": 6}, {"ep": 4}, "6 experts are not divided by --ep 4", "these do: --ep 3 or 6"),
    ("llama", {}, {"ep": 2}, "llama has no experts to divide over --ep 2", "use --tp or --pp"),
    ("llama", {}, {"pp": 4}, "3 layers are too few for --pp 4", "these do: --pp 3"),
    ("mixtral", {"num_local_experts": 6}, {"tp": 3, "ep": 4}, "4 attention heads", "--tp 2 or 4, --ep 3 or 6"),
]


@pytest.mark.parametrize(("family", "sizes", "layout", "message", "hint"), REFUSED)
def test_sizes_that_do_not_divide_are_refused_with_those_that_do(
    family: str, sizes: dict[str, Any], layout: dict[str, int], message: str, hint: str, tmp_path: Path
) -> None:
    tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample(family, **SIZES[family] | sizes))
    options = [word for name, n in layout.items() for word in (f"--{name}", n)]
    done = run(
        "convert", tmp_path / "checkpoint", "--target", "onnxruntime-cpu", "-o", tmp_path / "port", *options, "--json"
    )
    said = done.refusal()
    assert message in said
    assert hint in said
    assert not (tmp_path / "port").exists()


@pytest.mark.parametrize("option", ["--weights=reference"])
def test_what_is_not_known_of_several_cards_is_refused(
    option: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    words = ["--target", "onnxruntime-cpu", "-o", tmp_path / "port", "--tp", 2, *option.split("=", 1), "--json"]
    assert f"{option.split('=')[0]}" in run("convert", checkpoint("llama"), *words).refusal()


def test_parts_of_a_model_are_not_run_of_a_split_port(split: Path, checkpoint: Callable[[str], Path]) -> None:
    words = ("verify", split, "--against", checkpoint("llama"), "--level", "semantics", "--json")
    assert "a port for several cards is run whole" in run(*words, "--layers", "0-1").refusal()
    assert "--launch 4" in run(*words, "--launch", 3).refusal()
    there = ("verify", split, "--against", checkpoint("llama"), "--provider", "CPUExecutionProvider", "--json")
    assert "--provider and --bisect are for ports of one card" in run(*there).refusal()
    bytes_only = ("verify", split, "--against", checkpoint("llama"), "--level", "weights", "--layers", "0-1", "--json")
    assert run(*bytes_only).code == 0  # they are compared all the same


# ------------------------------------------------------------------------------ what each card holds and gives


@pytest.fixture(scope="module")
def split(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama on two times two cards: copy it before you harm it."""
    folder = tmp_path_factory.mktemp("ports") / "llama"
    convert(checkpoint("llama"), "onnxruntime-cpu", folder, tp=2, pp=2)
    return folder


def manifest_of(port: Path) -> dict[str, Any]:
    document = json.loads((port / "porter.json").read_text())
    assert isinstance(document, dict)
    return document


def test_no_card_holds_more_than_its_share(split: Path, checkpoint: Callable[[str], Path]) -> None:
    """Half of every matrix of its layers; norms, biases behind a sum and tables whole."""
    config = json.loads((checkpoint("llama") / "config.json").read_text())
    hidden, inner, width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, groups = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    halves = 2 * hidden * heads + 2 * hidden * groups + 3 * hidden * inner + heads + 2 * groups + 2 * inner
    layer, table = halves // 2 + 4 * hidden, 8 * config["max_position_embeddings"] * width // 2 // 4
    vocabulary = config["vocab_size"] * hidden // 2
    numbers = [2 * layer + vocabulary + table, layer + vocabulary + hidden + table]  # three layers: two and one
    ranks = manifest_of(split)["split"]["ranks"]
    assert [rank["weight_bytes"] for rank in ranks] == [4 * n for n in np.repeat(numbers, 2)]
    for rank in ranks:
        files = (split / f"rank-{rank['rank']:02d}").glob("*.safetensors")
        assert 0 < sum(file.stat().st_size for file in files) - rank["weight_bytes"] < 4096  # the header
    assert [rank["cache_bytes_per_token"] for rank in ranks] == [4 * groups * n for n in (2, 2, 1, 1)]


def test_the_manifest_tells_every_exchange(split: Path, checkpoint: Callable[[str], Path]) -> None:
    config = json.loads((checkpoint("llama") / "config.json").read_text())
    hidden, words = 4 * config["hidden_size"], 4 * config["vocab_size"]
    told = [
        (e["stage"], e["kind"], e["over"], e["groups"], e["bytes_per_token"], e["sent_bytes_per_token"])
        for e in manifest_of(split)["split"]["exchanges"]
    ]
    front, back = [[0, 1]], [[2, 3]]
    assert told == [
        *[(0, "AllReduce", "tp", front, hidden, hidden)] * 5,  # of the embedding, and two of each layer
        (0, "Send", "pp", [[0, 2], [1, 3]], hidden, hidden),
        *[(1, "AllReduce", "tp", back, hidden, hidden)] * 2,
        (1, "AllGather", "tp", back, words / 2, words / 2),
    ]


@pytest.mark.parametrize("layout", LAYOUTS + MORE, ids=lambda layout: "-".join(f"{k}{n}" for k, n in layout.items()))
@pytest.mark.parametrize("family", SIZES)
def test_cards_hold_and_exchange_what_plan_said(
    family: str, layout: dict[str, int], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = checkpoint(family)
    words = [word for name in ("tp", "ep", "pp") for word in (f"--{name}", layout.get(name, 1))]
    done = run("plan", folder, "--target", "nvidia-h100", "--dtype", "float32", *words, "--json")
    if done.code == 2:
        assert "ep" in layout
        return
    (found,) = done.json()["candidates"]
    split = convert(folder, "onnxruntime-cpu", tmp_path / "port", **layout)["split"]
    told = found["port"]
    assert max(r["weight_bytes"] for r in split["ranks"]) == pytest.approx(told["weight_bytes"], rel=0.02)
    assert max(r["cache_bytes_per_token"] for r in split["ranks"]) == told["cache_bytes_per_token"]
    exchanges = [Exchange.of_json(e) for e in split["exchanges"]]
    assert sum(e.sent_per_token * e.givers for e in exchanges) == told["link_bytes_per_token"]


def test_a_ring_of_four_sends_three_quarters_twice() -> None:
    """Of an AllReduce: once to add up, once to spread; gathered, three cards get it whole."""
    kinds = {
        kind: Exchange(kind, "tp", 0, 0, ((0, 1, 2, 3),), "x", "y", "bfloat16", 100)  # type: ignore[arg-type]
        for kind in ("AllReduce", "AllGather")
    }
    assert [kinds[kind].sent_per_token for kind in kinds] == [300, 600]
    assert Exchange.of_json(kinds["AllGather"].to_json()) == kinds["AllGather"]


def test_each_expert_lies_on_one_card(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    convert(checkpoint("mixtral"), "onnxruntime-cpu", tmp_path / "port", ep=4)
    config = json.loads((checkpoint("mixtral") / "config.json").read_text())
    one = 3 * config["hidden_size"] * config["intermediate_size"] * config["num_hidden_layers"] * 4
    whole_port = convert(checkpoint("mixtral"), "onnxruntime-cpu", tmp_path / "whole")
    other = sum(w["bytes"] for w in whole_port["weights"]) - 4 * one
    for rank in manifest_of(tmp_path / "port")["split"]["ranks"]:
        assert rank["weight_bytes"] - one == pytest.approx(other, abs=8192)  # headers


def test_an_interrupted_conversion_goes_on(
    split: Path, checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All weights of all cards are written when it is stopped; the second run reads none of them again."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("porter.port.describe", stop)
        with pytest.raises(Interrupted):
            convert(checkpoint("llama"), "onnxruntime-cpu", tmp_path / "port", tp=2, pp=2)
    assert not (tmp_path / "port").exists()
    with monkeypatch.context() as patched:
        patched.setattr("porter.source.Source.rows", stop)
        convert(checkpoint("llama"), "onnxruntime-cpu", tmp_path / "port", tp=2, pp=2)
    assert [*tmp_path.iterdir()] == [tmp_path / "port"]
    assert digests(tmp_path / "port") == digests(split)


# ------------------------------------------------------------------------------ faults are found


def test_the_verdict_says_how_cards_were_run(split: Path, checkpoint: Callable[[str], Path]) -> None:
    done = run("verify", split, "--against", checkpoint("llama"), "--level", "semantics", "--tokens", 2, "--json")
    assert "the port is for 4 cards, which were run in turn, in one process" in done.json()["notes"]


def judged(port: Path, folder: Path, level: str = "semantics") -> tuple[int, dict[str, Any]]:
    """The exit code, and the checks that failed."""
    done = run("verify", port, "--against", folder, "--level", level, "--tokens", 2, "--json")
    failed = {c["name"]: c for found in done.json()["levels"] for c in found["checks"] if c["status"] == "fail"}
    return done.code, failed


@pytest.fixture
def harmed(split: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(split, tmp_path / "port"))


def test_a_wrong_weight_of_one_card_is_found(harmed: Path, checkpoint: Callable[[str], Path]) -> None:
    with weight_of(harmed, "model.layers.1.self_attn.o_proj.weight", "rank-01") as weight:
        weight[3] *= 1.001
    code, failed = judged(harmed, checkpoint("llama"), "weights")
    assert (code, list(failed)) == (1, ["weights unlike their source"])
    assert failed["weights unlike their source"]["detail"] == "model.layers.1.self_attn.o_proj.weight"
    code, failed = judged(harmed, checkpoint("llama"))
    assert code == 1
    assert "prefill: layers" in failed


def test_a_copy_that_differs_from_the_others_is_found(harmed: Path, checkpoint: Callable[[str], Path]) -> None:
    """The second norm of one card's first layer: what it adds differs, and so does what it goes on with."""
    with weight_of(harmed, "model.layers.0.self_attn.o_proj.bias", "rank-01") as weight:
        weight += 0.01
    code, failed = judged(harmed, checkpoint("llama"))
    assert code == 1
    assert "cards that must have the same layers of layer 0 differ" in failed["calls that the port fails"]["detail"]


@pytest.mark.parametrize("lost", [2, 5])
def test_an_exchange_that_is_not_told_is_a_finding(lost: int, harmed: Path, checkpoint: Callable[[str], Path]) -> None:
    document = manifest_of(harmed)
    del document["split"]["exchanges"][lost]
    (harmed / "porter.json").write_text(json.dumps(document))
    code, failed = judged(harmed, checkpoint("llama"))
    assert (code, list(failed)) == (1, ["calls that the port fails"])


# ------------------------------------------------------------------------------ in other forms


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_ports_pass_at_every_level(dtype: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    convert(checkpoint("qwen3"), "ascend-910b3", tmp_path / "port", dtype=dtype, tp=2)
    done = run("verify", tmp_path / "port", "--against", checkpoint("qwen3"), "--tokens", 2, "--json")
    failed = [c for found in done.json()["levels"] for c in found["checks"] if c["status"] == "fail"]
    assert (done.code in (0, 3), failed) == (True, [])


@pytest.mark.parametrize("form", ["gptq", "fp8"])
def test_quantized_checkpoints_are_decoded_before_they_are_cut(form: str, tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(
        tmp_path / "checkpoint", tiny.sample("llama", **SIZES["llama"], intermediate_size=96)
    )
    packing.quantize_checkpoint(folder, form)
    convert(folder, "onnxruntime-cpu", tmp_path / "port", tp=2)
    assert_parity(tmp_path / "port", folder, Originals(folder, None, whole(3)))


def test_experts_in_one_stack_are_cut_too(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample("mixtral", **SIZES["mixtral"]), fused=True)
    convert(folder, "onnxruntime-cpu", tmp_path / "port", tp=2, ep=2)
    assert_parity(tmp_path / "port", folder, Originals(folder, None, whole(2)))


@pytest.mark.parametrize(
    ("family", "form", "layout"),
    [("llama", "int4:32", {"tp": 2, "pp": 2}), ("deepseek_v3", "int8", {"tp": 2, "ep": 2})],
)
def test_quantized_ports_are_split_too(family: str, form: str, layout: dict[str, int], tmp_path: Path) -> None:
    """Each card's part is quantized by itself; the original is given what all the codes mean."""
    sizes = SIZES[family] | {"intermediate_size": 128}
    folder = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample(family, **sizes))
    result = convert(folder, "onnxruntime-cpu", tmp_path / "port", quantize=form, **layout)
    assert not any("mlp" in name for name in result["left_in_float"])
    code, failed = judged(tmp_path / "port", folder, "weights")
    assert (code, failed) == (0, {})
    assert judged(tmp_path / "port", folder) == (0, {})


FIXED = [
    ("deepseek_v3", "onnxruntime-cpu", {"tp": 2, "pp": 2}, "batch=2,sequence=8,context=64"),
    ("mixtral", "onnxruntime-cpu", {"ep": 2}, "sequence=4/8,context=64"),
    ("llama", "canaan-k230", {"tp": 2}, "sequence=8,context=64"),  # which takes no other
    ("llama", "ascend-910b3", {"tp": 2}, "sequence=4/8,context=64"),  # in gears on one card, in graphs on several
]


@pytest.mark.parametrize(("family", "target", "layout", "shape"), FIXED)
def test_graphs_of_fixed_sizes_are_split_too(
    family: str, target: str, layout: dict[str, int], shape: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Each in segments of its own, all dimensions numbers, and one list of exchanges for all of them."""
    folder = checkpoint(family)
    result = convert(folder, target, tmp_path / "port", shape=shape, **layout)
    values = [value for graph in result["graphs"] for value in (*graph["inputs"], *graph["outputs"])]
    assert all(isinstance(size, int) for value in values for size in value["shape"])
    assert_parity(tmp_path / "port", folder, Originals(folder, None, whole(result["split"]["ranks"][-1]["layers"][1])))


def test_the_expanded_form_is_split_too(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = checkpoint("deepseek_v3")
    convert(folder, "onnxruntime-cpu", tmp_path / "port", tp=2, attention="expanded")
    assert_parity(tmp_path / "port", folder, Originals(folder, None, whole(3)))


def test_the_same_command_gives_the_same_bytes(split: Path, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    convert(checkpoint("llama"), "onnxruntime-cpu", tmp_path / "again", tp=2, pp=2)
    assert digests(split) == digests(tmp_path / "again")
