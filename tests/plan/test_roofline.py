"""The least time of a step, on a card whose figures are easy: 1 T operations, 1 GB/s, links of 0.1 and 0.01 GB/s."""

from __future__ import annotations

from fractions import Fraction

import pytest
from models import DEEPSEEK_V3, LLAMA, demand, device, machine

from porter.errors import FamilyError, TargetError
from porter.plan.form import BYTES, Rate, form_for, rate_of, stored_dtype
from porter.plan.roofline import Part, Phase, Roofline, Step
from porter.plan.split import Placed, Split, Work
from porter.target import Link, find_device

WORK, ONE = Work(1000, 100), Split(1, 1, 1)

INT8, FP8 = {"num_bits": 8, "type": "int"}, {"num_bits": 8, "type": "float"}


def roofline(split: Split = ONE, config: dict[str, object] = LLAMA, **facts: object) -> Roofline:
    card = machine(device(**facts), config)
    return Roofline(Placed(demand(config), card.form, split), card)


def parts(phase: Phase, sequences: float, line: Roofline, work: Work = WORK) -> dict[str, Part]:
    return {part.name: part for part in line.step(phase, sequences, work).parts}


# ------------------------------------------------------------------------------ parts


def test_decode_by_hand() -> None:
    """3 sequences with 1000 tokens each: weights are read once, each cache of its own, and each weight costs two."""
    found = parts("decode", 3, roofline())
    projections = 64 * 64 + 2 * 64 * 16 + 64 * 64
    norms, mlp, head = 64, 3 * 64 * 160, 64 * 1000
    assert found["attention projections"].operations == 4 * 3 * 2 * projections
    assert found["attention projections"].bytes == 4 * 2 * (projections + norms)
    assert found["attention"].operations == 4 * 3 * 2 * 8 * 16 * 1000
    assert found["attention"].bytes == 4 * 3 * 1000 * 32 * 2
    assert found["mlp and shared experts"].operations == 4 * 3 * 2 * mlp
    assert found["output projection"].operations == 3 * 2 * head
    assert found["output projection"].bytes == 2 * head
    for part in found.values():
        assert (part.compute, part.memory) == pytest.approx((part.operations / 1e12, part.bytes / 1e9))
        assert part.seconds == max(part.compute, part.memory)


def test_prefill_by_hand() -> None:
    """2 prompts of 100: all tokens meet the weights, each sees half of its prompt, the last of each has logits."""
    found = parts("prefill", 2, roofline())
    assert found["attention"].operations == 4 * 200 * 2 * 8 * 16 * 50.5
    assert found["mlp and shared experts"].operations == 4 * 200 * 2 * 3 * 64 * 160
    assert found["output projection"].operations == 2 * 2 * 64 * 1000


def test_ranks_share_work_and_weights_and_keys() -> None:
    whole, half = parts("decode", 4, roofline()), parts("decode", 4, roofline(Split(2, 1, 1)))
    assert half["attention"].operations == whole["attention"].operations / 2
    assert half["attention"].bytes == whole["attention"].bytes / 2
    assert half["output projection"].bytes == whole["output projection"].bytes / 2


def test_a_latent_is_read_whole_by_every_rank_and_met_by_its_heads() -> None:
    card = machine("nvidia-h100", DEEPSEEK_V3)
    lines = [
        Roofline(Placed(demand(DEEPSEEK_V3), card.form, split), card) for split in (Split(1, 8, 1), Split(8, 1, 1))
    ]
    one, eight = (parts("decode", 4, line)["attention"] for line in lines)
    assert eight.operations == one.operations / 8
    assert eight.bytes == one.bytes == 61 * 4 * 1000 * 576 * 2


def test_prefill_of_a_latent_takes_the_cheaper_form() -> None:
    """Expanded heads have 320 numbers where absorbed ones have 1088; in decode there is nothing to choose."""
    card = machine("nvidia-h100", DEEPSEEK_V3)
    line = Roofline(Placed(demand(DEEPSEEK_V3), card.form, Split(1, 8, 1)), card)
    assert parts("prefill", 1, line)["attention"].operations == pytest.approx(61 * 100 * 2 * 128 * 320 * 50.5)
    assert parts("decode", 1, line)["attention"].operations == 61 * 2 * 128 * 1088 * 1000


@pytest.mark.parametrize(("tokens", "met"), [(1, 8), (2, 8 + 8 * 248 / 256), (10_000, 256)])
def test_experts_are_read_when_a_token_meets_them(tokens: int, met: float) -> None:
    card = machine("nvidia-h100", DEEPSEEK_V3)
    line = Roofline(Placed(demand(DEEPSEEK_V3), card.form, Split(1, 1, 1)), card)
    part = parts("decode", tokens, line)["routed experts"]
    assert part.bytes == pytest.approx(58 * met * 3 * 7168 * 2048)
    assert part.operations == pytest.approx(58 * tokens * 8 * 2 * 3 * 7168 * 2048)


def test_experts_on_groups_get_the_tokens_of_all_groups() -> None:
    card = machine("nvidia-h100", DEEPSEEK_V3)
    lines = [Roofline(Placed(demand(DEEPSEEK_V3), card.form, Split(1, ep, 1)), card) for ep in (1, 256)]
    one, many = (parts("decode", 1000, line)["routed experts"] for line in lines)
    assert many.operations == pytest.approx(one.operations)
    assert many.bytes == pytest.approx(one.bytes / 256)


def test_tokens_that_are_drafted_ahead_are_computed_and_read_one_cache() -> None:
    line = roofline()
    plain, ahead = parts("decode", 4, line), parts("decode", 4, line, Work(1000, 100, accepted=1.7))
    for name, part in plain.items():
        assert ahead[name].operations == 2 * part.operations
        assert ahead[name].bytes == part.bytes


# ------------------------------------------------------------------------------ links


def test_a_sum_over_two_cards_by_hand() -> None:
    """Each card sends 64 numbers of 2 bytes for each token, in two messages of a microsecond."""
    step = roofline(Split(2, 1, 1)).step("decode", 10, WORK)
    found = {timed.exchange.name: timed.seconds for timed in step.links}
    once = 10 * 64 * 2 / 1e8 + 2 * 1e-6
    assert found["embedding"] == pytest.approx(once)
    assert found["attention output"] == pytest.approx(4 * once)
    assert found["logits"] == pytest.approx(10 * 500 * 2 / 1e8 + 1e-6)


def test_stages_within_a_node_and_between_nodes() -> None:
    """A node has four cards: stages of one card are near, stages of four are far, at a tenth of the speed."""
    near, far = (roofline(split).wires for split in (Split(1, 1, 2), Split(4, 1, 2)))
    (sent,) = near.timed(near.placed.stages[0], 10, 10)
    assert sent.seconds == pytest.approx(10 * 64 * 2 / 1e8 + 1e-6)
    assert near.timed(near.placed.stages[-1], 10, 10) == [], "the last has nobody to send to"
    *_, sent = far.timed(far.placed.stages[0], 10, 10)
    assert sent.seconds == pytest.approx(10 * 64 * 2 / 1e7 + 1e-5)


def test_a_token_goes_to_a_node_once() -> None:
    """16 groups in 2 nodes of 8, experts anywhere: to one other node at most, and on from there within it."""
    config = DEEPSEEK_V3 | {"n_group": 1, "topk_group": 1}
    link = Link("wire", 1e11, 1, "switched", 8, 1e10)
    card = machine(device(link=link, memory_bytes=10**12), config)
    wires = Roofline(Placed(demand(config), card.form, Split(1, 16, 1)), card).wires
    assert wires.reach.nodes < 1
    assert 5 < wires.reach.groups < 8
    dispatch = next(t for t in wires.timed(wires.placed.stages[0], 100, 100) if t.exchange.name == "dispatch")
    far = 58 * 100 * 7168 * 2 * float(wires.reach.nodes) / 1e10
    near = 58 * 100 * 7168 * 2 * float(wires.reach.groups - wires.reach.nodes) / 1e11
    assert dispatch.seconds == pytest.approx(max(far, near))


def test_in_a_full_mesh_few_cards_have_few_wires() -> None:
    fabric = machine("ascend-910b3", LLAMA).fabric
    assert fabric.among(8) == fabric.within == 196e9
    assert fabric.among(2) == pytest.approx(196e9 / 7)
    assert machine("nvidia-h100", LLAMA).fabric.among(2) == 450e9


def test_what_is_not_known_of_links_costs_nothing_and_is_told() -> None:
    line = roofline(Split(2, 1, 1), link=None)
    assert line.step("decode", 1, WORK).wires == 0
    assert line.machine.fabric.missing(Split(2, 1, 1)) == ("link",)
    assert line.machine.fabric.missing(Split(1, 1, 1)) == ()
    part = Link("wire", None, None, None, 4, None)
    missing = {"link.bandwidth", "link.between_nodes", "link.latency", "link.latency_between_nodes", "link.directions"}
    assert set(machine(device(link=part), LLAMA).fabric.missing(Split(8, 1, 1))) == missing


# ------------------------------------------------------------------------------ steps


def step(*parts: tuple[float, float], wires: float = 0.0) -> Step:
    line = roofline(Split(2, 1, 1))
    timed = line.step("decode", 1, WORK).links[:1]
    made = [Part(str(n), 0, 0, compute, memory) for n, (compute, memory) in enumerate(parts)]
    links = tuple(type(t)(t.exchange, wires) for t in timed)
    return Step("decode", line.placed.stages[0], 1, tuple(made), links)


def test_links_work_beside_the_card_and_parts_after_each_other() -> None:
    found = step((3, 1), (1, 5), wires=4)
    assert (found.card, found.wires, found.seconds, found.in_turn) == (8, 4, 8, 14)
    assert step((1, 0), wires=4).seconds == 4


def test_what_binds_is_named() -> None:
    assert step((3, 1), (1, 5)).bound == "memory"
    assert step((6, 1), (1, 5)).bound == "compute"
    assert step((1, 1), wires=2).bound == "links"


def test_the_slowest_stage_sets_the_pace() -> None:
    """The last has the output projection, which is most of this small model."""
    line = roofline(Split(1, 1, 2))
    assert line.step("decode", 1, WORK).stage.last


# ------------------------------------------------------------------------------ dtypes and rates


def test_a_checkpoint_keeps_its_dtype_where_the_device_takes_it() -> None:
    forms = {name: machine(name, DEEPSEEK_V3).form for name in ("nvidia-h100", "ascend-910b3", "moore-threads-s4000")}
    assert {name: form.weights for name, form in forms.items()} == {
        "nvidia-h100": "float8e4m3fn",
        "ascend-910b3": "int8",
        "moore-threads-s4000": "int8",
    }
    assert all((form.wide, form.cache, form.dispatched) == ("bfloat16", "bfloat16", 1) for form in forms.values())
    assert machine("ascend-310p3", LLAMA).form.weights == "float16"
    assert machine("hygon-bw1000", DEEPSEEK_V3).form.weights == "float16"


def test_int4_is_decoded_and_multiplied_wide() -> None:
    form = machine("nvidia-h100", DEEPSEEK_V3, dtype="int4").form
    assert (form.weights, form.multiplied, form.dispatched) == ("int4", "bfloat16", 2)
    assert BYTES["int4"] == Fraction(128 // 2 + 4, 128), "64 bytes of codes and a float32 for a block of 128"


def test_a_dtype_that_a_device_lacks_is_refused() -> None:
    with pytest.raises(TargetError, match="not known to compute in float8e4m3fn"):
        form_for(find_device("ascend-910b3")[0], "bfloat16", "float8e4m3fn", "auto")


def test_a_rate_that_nobody_states_is_at_most_the_fastest() -> None:
    card = device(rates={"float8e4m3fn": 9e12}, dtypes=("bfloat16", "float8e4m3fn"))
    assert rate_of(card, "float8e4m3fn") == Rate(9e12, "a test", False)
    found = rate_of(card, "bfloat16")
    assert found is not None
    assert (found.value, found.bound) == (9e12, True)
    assert rate_of(device(rates={}), "bfloat16") is None


@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [
        ({"quant_method": "fp8"}, "float8e4m3fn"),
        ({"quant_method": "gptq", "bits": 4}, "int4"),
        ({"quant_method": "awq", "w_bit": 4}, "int4"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": INT8}}}, "int8"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": FP8}}}, "float8e4m3fn"),
    ],
)
def test_what_a_checkpoint_is_stored_in(quantization: dict[str, object], dtype: str) -> None:
    assert stored_dtype({"quantization_config": quantization}) == dtype
    assert stored_dtype({"torch_dtype": "float16"}) == "float16"


@pytest.mark.parametrize(
    "config", [{"quantization_config": {"quant_method": "gptq", "bits": 3}}, {"torch_dtype": "int64"}]
)
def test_a_form_that_is_not_known_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(FamilyError):
        stored_dtype(config)
