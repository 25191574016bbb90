"""A port that goes wrong with time is found by how its errors lie over positions; a sound one, at any dtype, is not."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
import torch
from measured import TARGET, checks, report, write
from onnx import GraphProto, TensorProto, helper
from surgery import graph_of, weight_of

from porter.manifest import open_port
from porter.model import understand
from porter.port import convert
from porter.verify.benchmark import Parties
from porter.verify.decoding import Decoded, at_once, decode_original, decode_port
from porter.verify.drift import Drift
from porter.verify.intervals import Pair
from porter.verify.original import Original
from porter.verify.paths import Path as Way
from porter.verify.paths import paths_of, texts_of
from porter.verify.precision import Precision
from porter.verify.prompts import Prompts
from porter.verify.report import Level
from porter.verify.runs import PortRun, open_run
from porter.verify.scenarios import Call, Scenario, placed
from porter.verify.slope import judge_slope, theil_sen

DTYPES = ["float32", "float16", "bfloat16"]
FAMILIES = ["llama", "deepseek_v3", "mistral"]  # llama3 positions, YaRN and experts, a sliding window
QUANTITIES = ("KL", "logits", "cache")
PAST, PRESENT = "past_key_values.", "present."
DYNAMIC = {"type": "dynamic", "factor": 2.0}


Case = tuple[str, ...]  # a family, a dtype


def some(cases: Iterable[Case], *quick: Case) -> list[Any]:
    """All cases, of which only the quick ones are run every time."""
    return [pytest.param(c, marks=() if c in quick else pytest.mark.slow, id="-".join(c)) for c in cases]


def judged(port: Path, checkpoint: Path) -> dict[str, dict[str, Any]]:
    """The checks of this part of the level alone, on random texts: nothing else is run."""
    opened, model = open_port(port), understand(checkpoint, "auto", None)
    exact, own = originals(checkpoint, opened.dtype)
    run = open_run(opened, model, exact.stages, forced=False, deployed=True)
    parties = Parties(run, own, exact, None, partial(model.family.original_cache, model.config))
    drift = Drift(opened, model, 8, parties)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (32, 32))
    drift.add(Prompts(ids, ids, 4, np.zeros(0), {}))
    level = drift.added_to(Level("distribution", ()), opened.dtype)
    return {check.name: check.to_json() for check in level.checks}


@cache
def originals(checkpoint: Path, dtype: Precision) -> tuple[Original, Original]:
    """In float64 and at the dtype."""
    return Original(checkpoint, "float64"), Original(checkpoint, dtype)


def failed(port: Path, checkpoint: Path) -> set[str]:
    return {name for name, check in judged(port, checkpoint).items() if check["status"] == "fail"}


# ------------------------------------------------------------------------------ sound ports


@pytest.mark.parametrize("case", some(product(FAMILIES, DTYPES), ("llama", "float32"), ("mistral", "float16")))
def test_a_sound_port_does_not_drift(case: Case, tmp_path: Path) -> None:
    family, dtype = case
    checkpoint, port = write(tmp_path, family, dtype)
    document = report(port, checkpoint, "distribution")
    found = checks(document)
    far = f"RoPE at {tiny.sample(family)['max_position_embeddings']}"
    for name in ("drift: KL slope", *(f"{path}: {what}" for path in ("drift", far) for what in QUANTITIES)):
        assert found[name]["status"] == "pass", (name, found[name])
    assert found["drift: KL slope"]["original"] < 1
    low, high = found["drift: KL slope"]["interval"]
    assert low <= found["drift: KL slope"]["value"] <= high
    positions = [entry["position"] for entry in document["figures"]["positions"]]
    assert positions == sorted(positions)
    assert (positions[0], positions[-1]) == (10, tiny.sample(family)["max_position_embeddings"] - 4)
    assert all(entry["port"] > 0 for entry in document["figures"]["positions"])


def test_errors_are_told_by_place(llama: Path, llama_port: Path) -> None:
    figures = report(llama_port, llama, "distribution")["figures"]["errors"]
    mine = [entry for entry in figures if entry["scenario"] == "drift"]
    cache = {entry["place"]: entry for entry in mine if entry["quantity"] == "cache"}
    assert {"0.key@4", "2.value@4", "0.key@66"} <= set(cache)  # the opening's, too
    assert cache["2.value@66"]["layer"] == 2
    assert all(0 < entry["port"] < 1e-4 for entry in mine)
    assert {entry["place"] for entry in mine if entry["quantity"] == "logits"} >= {"@10", "@66"}


@pytest.mark.parametrize(
    ("family", "dtype", "shape"),
    [
        ("mistral", "float16", "sequence=8,context=192"),
        ("deepseek_v3", "bfloat16", "batch=3,sequence=4,context=64"),
        ("llama", "float32", "sequence=1,context=12"),  # no room for a slope
    ],
)
def test_a_sound_port_of_fixed_size_does_not_drift(family: str, dtype: str, shape: str, tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.sample(family), dtype=torch.bfloat16)
    convert(checkpoint, TARGET[dtype], tmp_path / "port", dtype=dtype, shape=shape)
    found = judged(tmp_path / "port", checkpoint)
    assert {check["status"] for check in found.values()} == {"pass"}
    assert ("drift: KL slope" in found) == ("context=12" not in shape)
    assert ("RoPE at 192: KL" in found) == ("context=192" in shape)


@pytest.mark.parametrize(
    ("family", "rope"),
    [
        ("llama", {"original_max_position_embeddings": 96}),
        ("deepseek_v3", {"original_max_position_embeddings": 96}),
    ],
)
def test_a_sound_port_goes_past_the_trained_length(family: str, rope: dict[str, int], tmp_path: Path) -> None:
    scaling = tiny.sample(family)["rope_scaling"] | rope
    checkpoint, port = write(tmp_path, family, "bfloat16", rope_scaling=scaling)
    document = report(port, checkpoint, "distribution")
    assert document["status"] == "pass"
    assert "RoPE at 96: KL" in checks(document)
    positions = [entry["position"] for entry in document["figures"]["positions"]]
    assert [position for position in positions if 88 <= position < 104] == [92, 100]  # before it and beyond


def test_where_the_rotation_has_no_end_texts_go_past_it(tmp_path: Path) -> None:
    """And float64 goes step by step, as all do: each token was rotated by what was the longest position then."""
    changes = {"rope_scaling": DYNAMIC, "max_position_embeddings": 80}
    checkpoint, port = write(tmp_path, "llama", "float32", **changes)
    document = report(port, checkpoint, "distribution")
    assert document["status"] == "pass"
    assert [entry["position"] for entry in document["figures"]["positions"]][-2:] == [76, 84]


# ------------------------------------------------------------------------------ ports that drift


HARMED = zip(2 * FAMILIES, [*DTYPES, *DTYPES[1:], DTYPES[0]], strict=True)  # each family at two dtypes


@pytest.fixture(scope="module", params=some(HARMED, ("llama", "float32")))
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A dtype, a checkpoint and a sound port of it: copy it before you harm it."""
    family, dtype = request.param
    return dtype, *write(tmp_path_factory.mktemp(family), family, dtype)


def turned(port: Path, checkpoint: Path, faster: float) -> None:
    """RoPE's tables with other frequencies, rounded as the port's are."""
    rope = understand(checkpoint, "auto", None).network.model.rotary_emb.rope
    angles = np.arange(rope.positions())[:, None] * rope.inverse_frequencies() * faster
    for name, wave in (("cos", np.cos), ("sin", np.sin)):
        with weight_of(port, f"model.rotary_emb.{name}") as table:
            values = wave(angles) * rope.attention_factor()
            if table.dtype == np.uint16:
                values = torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
            table[:] = values


def test_frequencies_that_are_off_by_a_thousandth(sound: tuple[str, Path, Path], tmp_path: Path) -> None:
    dtype, checkpoint, port = sound
    copy = Path(shutil.copytree(port, tmp_path / "port"))
    turned(copy, checkpoint, 1.0)
    assert failed(copy, checkpoint) == set()
    turned(copy, checkpoint, 1.001)
    found = judged(copy, checkpoint)
    (far,) = {name.partition(":")[0] for name in found} - {"drift"}
    assert found[f"{far}: cache"]["status"] == "fail"
    if dtype == "float32":  # in narrow ones the rounding hides it, but for what is far away
        assert found["drift: KL"]["status"] == "fail"
        slope, windowed = found["drift: KL slope"], "window" in (checkpoint / "config.json").read_text()
        assert (slope["status"] == "fail") == (not windowed)  # in which no two tokens are far apart
        assert (slope["interval"][0] > slope["limit"]) == (not windowed)


def shifted(graph: GraphProto) -> None:
    """From the eighth position on, RoPE is given the next one."""
    moved = [
        helper.make_node("Greater", ["position_ids", "eighth"], ["late"]),
        helper.make_node("Cast", ["late"], ["late.one"], to=TensorProto.INT64),
        helper.make_node("Add", ["position_ids", "late.one"], ["moved"]),
    ]
    graph.initializer.append(helper.make_tensor("eighth", TensorProto.INT64, [], [7]))
    _turn_by(graph, "moved", moved)


def _turn_by(graph: GraphProto, positions: str, nodes: list[onnx.NodeProto]) -> None:
    """Lets the rotation read other positions, but none past its tables; masks and caches read the right ones."""
    readers = [node for node in graph.node if node.op_type == "Gather" and node.input[1] == "position_ids"]
    tables = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for reader in readers:
        reader.input[1] = "in.tables"
    last = helper.make_tensor("last", TensorProto.INT64, [], [tables[readers[0].input[0]][0] - 1])
    graph.initializer.append(last)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, helper.make_node("Min", [positions, "last"], ["in.tables"]), *rest])


def narrowed(graph: GraphProto) -> None:
    """What is kept loses four bits, or twelve of float32, by the rounding of a sum that is too large for them."""
    for output in [value for value in graph.output if value.name.startswith(PRESENT)]:
        name, kind = output.name, output.type.tensor_type.elem_type
        factor = 2.0**12 + 1 if kind == TensorProto.FLOAT else 2.0**4 + 1
        graph.initializer.append(helper.make_tensor(f"{name}.factor", kind, [], [factor]))
        (node,) = [node for node in graph.node if name in node.output]
        node.output[list(node.output).index(name)] = f"{name}.whole"
        steps = [
            ("Mul", [f"{name}.whole", f"{name}.factor"], f"{name}.large"),
            ("Sub", [f"{name}.whole", f"{name}.large"], f"{name}.rest"),
            ("Add", [f"{name}.large", f"{name}.rest"], name),
        ]
        place = list(graph.node).index(node) + 1
        for n, (kind_of, given, result) in enumerate(steps):
            graph.node.insert(place + n, helper.make_node(kind_of, given, [result]))
        for made in ("whole", "large", "rest"):
            copy = graph.value_info.add()
            copy.CopyFrom(output)
            copy.name = f"{name}.{made}"


def faded(graph: GraphProto) -> None:
    """The cache loses a little at every step."""
    for given in [value for value in graph.input if value.name.startswith(PAST)]:
        name, kind = given.name, given.type.tensor_type.elem_type
        graph.initializer.append(helper.make_tensor(f"{name}.factor", kind, [], [1 - 2.0**-8]))
        for node in graph.node:
            for n, read in enumerate(node.input):
                if read == name:
                    node.input[n] = f"{name}.faded"
        graph.node.insert(0, helper.make_node("Mul", [name, f"{name}.factor"], [f"{name}.faded"]))
        copy = graph.value_info.add()
        copy.CopyFrom(given)
        copy.name = f"{name}.faded"


@pytest.mark.parametrize(("plant", "place"), [(shifted, r"@(?!4\b)"), (narrowed, "@"), (faded, r"@(4|10)\b")])
def test_a_cache_that_is_wrong(
    plant: Callable[[GraphProto], None], place: str, sound: tuple[str, Path, Path], tmp_path: Path
) -> None:
    _, checkpoint, port = sound
    copy = Path(shutil.copytree(port, tmp_path / "port"))
    with graph_of(copy) as graph:
        plant(graph)
    found = judged(copy, checkpoint)["drift: cache"]
    assert found["status"] == "fail"
    assert re.search(place, found["detail"])  # the opening was not turned wrongly; what is oldest has faded most


@pytest.mark.parametrize("case", some(product(["llama"], DTYPES), ("llama", "float16")))
def test_a_decode_that_is_one_position_ahead(case: Case, llama: Path, tmp_path: Path) -> None:
    """Of a port with a graph of its own for it. The prompt is right, and so is each token among its like."""
    dtype = case[1]
    convert(llama, TARGET[dtype], tmp_path / "port", dtype=dtype, shape="batch=16,sequence=8,context=64")
    assert failed(tmp_path / "port", llama) == set()
    with graph_of(tmp_path / "port", "decode.onnx") as graph:
        shifted(graph)
    assert "drift: cache" in failed(tmp_path / "port", llama)


@pytest.mark.parametrize("case", some([("mistral", "float16"), ("mistral", "bfloat16")], ("mistral", "bfloat16")))
def test_positions_that_are_rounded_show_far_away_alone(case: Case, tmp_path: Path) -> None:
    """Whole numbers are exact up to 256 in bfloat16 and up to 2048 in float16."""
    kind = TensorProto.DataType.Value(case[1].upper())
    positions = 4096 if kind == TensorProto.FLOAT16 else 1024
    checkpoint, port = write(tmp_path, "mistral", "bfloat16", max_position_embeddings=positions)
    with graph_of(port) as graph:
        rounding = [
            helper.make_node("Cast", ["position_ids"], ["narrow"], to=kind),
            helper.make_node("Cast", ["narrow"], ["back"], to=TensorProto.INT64),
        ]
        for name, its in (("narrow", kind), ("back", TensorProto.INT64)):
            graph.value_info.append(helper.make_tensor_value_info(name, its, ["batch", "sequence"]))
        _turn_by(graph, "back", rounding)
    found = failed(port, checkpoint)
    assert f"RoPE at {positions}: cache" in found
    assert not any(name.startswith("drift") for name in found)


def test_a_port_that_stops_midway_fails(tmp_path: Path, llama: Path, llama_port: Path) -> None:
    """Behind prompts of 32 tokens: its tables hold forty positions."""
    port = Path(shutil.copytree(llama_port, tmp_path / "port"))
    with graph_of(port) as graph:
        graph.initializer.append(helper.make_tensor("missing", TensorProto.INT64, [], [256 - 40]))
        graph.node.insert(0, helper.make_node("Add", ["position_ids", "missing"], ["later"]))
        for node in graph.node:
            if node.op_type == "Gather" and node.input[1] == "position_ids":
                node.input[1] = "later"
    (check,) = checks(report(port, llama, "distribution")).values()
    assert (check["status"], check["detail"][:12]) == ("fail", "ONNX Runtime")


# ------------------------------------------------------------------------------ paths and texts


def paths(checkpoint: Path, port: Path, steps: int = 8) -> dict[str, Way]:
    return {path.name: path for path in paths_of(open_port(port), understand(checkpoint, "auto", None), steps)}


def test_paths_lead_from_the_beginning_and_across_what_they_do_not_come_to(llama: Path, llama_port: Path) -> None:
    found = paths(llama, llama_port)
    assert list(found) == ["drift", "RoPE at 256"]  # the boundary at 32 is on the way
    near, far = found.values()
    np.testing.assert_array_equal(near.positions, np.arange(72))
    np.testing.assert_array_equal(far.positions, [*range(8), *range(240, 256)])
    assert near.cuts == (8, 12, 16, 20, 25, 31, 39, 49, 61, 72)
    assert [place for place, _ in far.stretches(opened=True)] == [4, 244, 252]


@pytest.mark.parametrize(("steps", "length"), [(8, 72), (64, 72), (100, 108), (512, 256)])
def test_more_tokens_make_a_longer_path(steps: int, length: int, llama: Path, llama_port: Path) -> None:
    assert len(paths(llama, llama_port, steps)["drift"].positions) == length


@pytest.mark.parametrize(("context", "opening", "names"), [(12, 3, ["drift"]), (80, 8, ["drift"])])
def test_a_path_ends_where_the_cache_does(
    context: int, opening: int, names: list[str], llama: Path, tmp_path: Path
) -> None:
    convert(llama, "onnxruntime-cpu", tmp_path / "port", shape=f"sequence=4,context={context}")
    found = paths(llama, tmp_path / "port")
    assert list(found) == names
    assert len(found["drift"].positions) == min(context, 72)
    assert found["drift"].cuts[0] == found["drift"].opening == opening


def test_the_calls_of_a_path_are_its_tokens_in_order() -> None:
    path = Way("far", np.array([0, 1, 2, 90, 91]), 3, (3, 5))
    ids = np.arange(10).reshape(2, 5)
    calls = path.calls(ids)
    assert [call.input_ids.shape for call in calls] == [(2, 3), (2, 1), (2, 1)]
    np.testing.assert_array_equal(np.concatenate([call.input_ids for call in calls], axis=1), ids)
    np.testing.assert_array_equal(calls[1].position_ids, [[90], [90]])


def test_seams_lie_elsewhere_in_each_text() -> None:
    ids = np.repeat(np.arange(32)[:, None], 32, axis=1)  # a prompt's tokens are its number
    texts = texts_of(Prompts(ids, ids, 4, np.zeros(0), {}), 72)
    assert texts.shape == (16, 72)
    seams = [tuple(np.flatnonzero(np.diff(text))) for text in texts]
    assert len(set(seams)) == len(seams)
    assert len(np.unique(texts[:, 0])) == 16


@pytest.mark.parametrize(("prompts", "count"), [(8, 8), (32, 16), (96, 48), (1000, 48)])
def test_there_are_neither_too_few_texts_nor_too_many(prompts: int, count: int) -> None:
    ids = np.zeros((prompts, 32), np.int64)
    assert texts_of(Prompts(ids, ids, 4, np.zeros(0), {}), 72).shape == (count, 72)


def test_texts_are_decoded_a_few_at_a_time_where_memory_is_short(
    llama: Path, llama_port: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which makes no difference beyond the rounding of float32."""
    batches: list[int] = []

    def decode(port: PortRun, calls: Sequence[Call]) -> Decoded:
        batches.append(len(calls[0].input_ids))
        return decode_port(port, calls)

    monkeypatch.setattr("porter.verify.drift.decode_port", decode)
    together = judged(llama_port, llama)
    row = 8 * tiny.sample("llama")["vocab_size"] * 72
    monkeypatch.setattr("porter.verify.drift.KEPT", 7 * row)
    few = judged(llama_port, llama)
    assert batches == [16, 16, 7, 7, 2, 16]  # the second path is a third as long
    assert {check["status"] for check in (*together.values(), *few.values())} == {"pass"}
    for name, check in together.items():
        assert few[name]["original"] == pytest.approx(check["original"], rel=0.3, abs=0.05)


# ------------------------------------------------------------------------------ float64 at once


@pytest.mark.parametrize("family", FAMILIES)
def test_float64_may_take_all_tokens_at_once(family: str, tmp_path: Path) -> None:
    """It computes what it would step by step, on given routes and across a gap in the cache, too."""
    config = tiny.sample(family)
    original = Original(tiny.write_checkpoint(tmp_path / family, config), "float64")
    ids = np.random.default_rng(0).integers(0, config["vocab_size"], (2, 20))
    entries = [f"{layer}.{part}" for layer in range(config["num_hidden_layers"]) for part in ("key", "value")]
    path = Way("far", np.array([*range(6), *range(90, 104)]), 6, (6, 20))
    for calls in (path.calls(ids), placed(Scenario("far", path.calls(ids))).calls):
        first = decode_original(original, calls, entries, as_it_is, {})
        routes = {n: chosen[::-1] for n, chosen in first.routes.items()}  # the other text's
        steps, whole = (decode_original(original, way, entries, as_it_is, routes) for way in (calls, at_once(calls)))
        assert len(at_once(calls)) == 1 + any(call.gap for call in calls)
        np.testing.assert_allclose(whole.logits, steps.logits, atol=1e-12)
        for name, entry in whole.cache.items():
            assert entry.shape[2] == 20
            np.testing.assert_allclose(entry, steps.cache[name], atol=1e-12)
        for n, chosen in routes.items():
            np.testing.assert_array_equal(np.sort(whole.routes[n]), np.sort(chosen))


def as_it_is(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    return keys, values


# ------------------------------------------------------------------------------ slopes


AT = np.array([10, 14, 18, 22, 28, 35, 44, 55, 66])


def growing(power: float, texts: int = 16, noise: float = 0.3) -> Pair:
    """The logarithms of errors that grow with the position, and beside them of some that do not."""
    scatter = np.random.default_rng(4).normal(0, noise, (2, texts, len(AT)))
    return Pair(power * np.log(AT) + scatter[0], np.log(AT) * 0.3 + scatter[1])


@pytest.mark.parametrize(("power", "status"), [(0.3, "pass"), (-2.0, "pass"), (1.3, "fail"), (2.3, "fail")])
def test_a_slope_is_judged_beside_the_original_s(power: float, status: str) -> None:
    check = judge_slope("slope", growing(power), AT, 0.5)
    assert check.status == status
    assert check.value == pytest.approx(power - 0.3, abs=0.15)
    assert check.measured is not None
    assert check.measured.port == pytest.approx(power, abs=0.15)
    assert check.measured.original == pytest.approx(0.3, abs=0.15)


def test_a_slope_that_texts_do_not_agree_on_is_inconclusive() -> None:
    check = judge_slope("slope", growing(0.9, texts=4, noise=2.0), AT, 0.5)
    assert check.status == "inconclusive"
    assert "4 texts leave the slope between" in check.detail


def test_what_is_hard_for_both_is_no_slope() -> None:
    hard = np.random.default_rng(5).normal(0, 3, (16, len(AT)))
    pair = growing(0.3)
    check = judge_slope("slope", Pair(pair.port + hard, pair.own + hard), AT, 0.5)
    assert check == judge_slope("slope", Pair(pair.port + hard, pair.own + hard), AT, 0.5)
    assert check.status == "pass"


def test_what_is_no_number_has_no_slope() -> None:
    pair = growing(0.3)
    bad = np.where(np.arange(len(AT)) == 3, np.inf, pair.port)
    assert judge_slope("slope", Pair(bad, pair.own), AT, 0.5).status == "fail"
    assert judge_slope("slope", Pair(bad, bad), AT, 0.5).status == "inconclusive"


def test_wild_points_do_not_turn_a_line() -> None:
    x = np.arange(9.0)
    lines = np.stack([2 * x + 1, -3 * x])
    lines[0, [2, 7]] += [500, -400]
    np.testing.assert_allclose(theil_sen(x, lines), [2, -3])
