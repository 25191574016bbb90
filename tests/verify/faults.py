"""Mistakes of the kind that ports are made with, each planted in a copy of a sound port, and who should find it.

The manifest is signed again after each, so that no digest gives it away: only the comparison can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import GraphProto, TensorProto, helper
from surgery import constants, graph_of, rewire, set_value, value_of, weight_of

EMBEDDING = "model.embed_tokens.weight"
EXPERTS = "model.layers.1.mlp.experts."
BIAS = "model.layers.2.mlp.gate.e_score_correction_bias"
COS, SIN = "model.rotary_emb.cos", "model.rotary_emb.sin"
ATTENTION = "model.layers.1.self_attn."
CHOICE, ROUTE = "mlp.gate.Route.TopK_2.0", "mlp.gate.Route."


Place = tuple[int | None, str]  # layer and block
LEVELS = ("weights", "semantics", "dtype", "distribution")
RUN = LEVELS[1:]


@dataclass(frozen=True)
class Fault:
    """A mistake: what it is in words, how it is planted or with which other config the port is made, in which model.

    `weight` is the one that the bytes accuse. `wide` and `thin` are the levels that must find it: in a port in float32,
    and in one in the `narrow` dtype, where semantics takes the weights of the source.
    """

    what: str
    plant: Callable[[Path], None] = lambda port: None
    config: dict[str, Any] = field(default_factory=dict)
    model: str = "deepseek_v3"
    weight: str | None = None
    wide: tuple[str, ...] = RUN
    thin: tuple[str, ...] = RUN
    narrow: str = "bfloat16"


@contextmanager
def numbers_of(port: Path, name: str) -> Iterator[np.ndarray]:
    """A weight as numbers, whatever the dtype in which it lies."""
    with weight_of(port, name) as weight:
        yield weight.view(ml_dtypes.bfloat16) if weight.dtype == np.uint16 else weight


def in_graph(*edits: Callable[[GraphProto], object]) -> Callable[[Path], None]:
    """Edits of a port's graph, one after the other."""

    def plant(port: Path) -> None:
        with graph_of(port) as graph:
            for edit in edits:
                edit(graph)

    return plant


def in_weight(name: str, edit: Callable[[np.ndarray], object]) -> Callable[[Path], None]:
    """A weight of a port changed in place."""

    def plant(port: Path) -> None:
        with numbers_of(port, name) as weight:
            edit(weight)

    return plant


# ------------------------------------------------------------------------------ weights


def swap_two_experts(port: Path) -> None:
    for part in ("gate_up_proj", "down_proj"):
        with weight_of(port, EXPERTS + part) as weight:
            weight[[2, 7]] = weight[[7, 2]]


def leave_out_an_expert(weight: np.ndarray) -> None:
    weight[5] = 0


def zero(weight: np.ndarray) -> None:
    weight[:] = 0


def transpose(weight: np.ndarray) -> None:
    weight[:] = weight.T.copy()


def swap_key_heads(weight: np.ndarray) -> None:
    heads = weight.reshape(2, -1, weight.shape[-1])
    heads[:] = heads[::-1].copy()


def flip_one_bit(port: Path) -> None:
    """The last of its fraction, in one of thousands of numbers."""
    with weight_of(port, ATTENTION + "o_proj.weight") as weight:
        weight.view(np.uint8).reshape(*weight.shape, -1)[7, 3, 0] ^= 1


def raise_rope_frequencies(port: Path) -> None:
    """By 0.1 %: each table is computed anew from the angle of its second row."""
    with numbers_of(port, COS) as cos, numbers_of(port, SIN) as sin:
        first = np.arctan2(sin[1].astype(np.float64), cos[1].astype(np.float64))
        angles = np.arange(len(cos))[:, None] * first * 1.001
        cos[:], sin[:] = np.cos(angles), np.sin(angles)


# ------------------------------------------------------------------------------ graphs


def drop_the_correction_bias(graph: GraphProto) -> None:
    rewire(graph, ROUTE + "Reshape", ROUTE + "Add", ROUTE + "Sigmoid")


def weigh_by_biased_scores(graph: GraphProto) -> None:
    rewire(graph, ROUTE + "GatherElements", ROUTE + "Sigmoid", ROUTE + "Add")


def ignore_the_group_limit(graph: GraphProto) -> None:
    rewire(graph, CHOICE, ROUTE + "Reshape_1", ROUTE + "Add")


def scale_routed_experts_by_two_percent_less(graph: GraphProto) -> None:
    (scale,) = constants(graph, "const.float.scalar.2.5")
    set_value(scale, value_of(scale) * 0.98)


def forget_mscale(graph: GraphProto) -> None:
    (scale,) = constants(graph, "const.float.scalar.0.3995")
    set_value(scale, np.array((14 + 8) ** -0.5))


def take_another_epsilon(graph: GraphProto) -> None:
    (epsilon,) = constants(graph, "const.float.scalar.1e-06")
    set_value(epsilon, np.array(1e-5))


def forget_the_shared_experts(graph: GraphProto) -> None:
    rewire(graph, "model.layers.1.output", "model.layers.1.mlp.Add", "model.layers.1.mlp.experts.Experts")


def untie_the_output(graph: GraphProto) -> None:
    """It reads numbers of its own: here 1 % larger ones."""
    (embedding,) = [tensor for tensor in graph.initializer if tensor.name == EMBEDDING]
    graph.initializer.append(helper.make_tensor("one.percent", embedding.data_type, [], [1.01]))
    graph.node.insert(0, helper.make_node("Mul", [EMBEDDING, "one.percent"], ["own"]))
    known = helper.make_tensor_value_info("own", embedding.data_type, list(embedding.dims))
    graph.value_info.append(known)
    rewire(graph, "lm_head.Gemm", EMBEDDING, "own")


def forget_the_last_norm(graph: GraphProto) -> None:
    rewire(graph, "lm_head.Gemm", "model.norm.RMSNorm", "model.layers.2.output")


def see_the_next_token(graph: GraphProto) -> None:
    """A mask that begins one token too late."""
    graph.node.insert(_place(graph, "mask.LessOrEqual"), helper.make_node("Add", ["mask.Unsqueeze", ONE], ["next"]))
    rewire(graph, "mask.LessOrEqual", "mask.Unsqueeze", "next")


def read_what_is_padded(graph: GraphProto) -> None:
    for node in graph.node:
        if node.op_type == "Where":
            node.input[:] = ["mask.LessOrEqual" if name == "mask.And" else name for name in node.input]


def turn_by_the_place_in_the_call(graph: GraphProto) -> None:
    """Positions from zero on in every call: the prompt is right, and each token behind it is not."""
    start = helper.make_node("Sub", ["position_ids", "mask.Sub"], ["from.zero"])
    graph.node.insert(_place(graph, "mask.Sub") + 1, start)
    ahead = [node for node in graph.node if node.op_type == "Gather" and node.input[1] == "position_ids"]
    for node in ahead:
        node.input[1] = "from.zero"
    _sort(graph)


def append_in_front(graph: GraphProto) -> None:
    """A cache that grows at the wrong end."""
    for node in graph.node:
        if node.op_type == "Concat" and node.input[0].startswith("past_key_values."):
            node.input[:] = list(node.input)[::-1]


def forget_the_last_entry(graph: GraphProto) -> None:
    """What is handed on is the cache as it came, its last entry twice the one before."""
    name = "present.1.latent"
    _rename(graph, name, "whole")
    for text, value in (("minus.one", [-1]), ("zero", [0]), ("axis.two", [2])):
        graph.initializer.append(helper.make_tensor(text, TensorProto.INT64, [1], value))
    graph.node.extend(
        [
            helper.make_node("Slice", ["whole", "zero", "minus.one", "axis.two"], ["head"]),
            helper.make_node("Slice", ["whole", "zero", "one.place", "axis.two"], ["foot"]),
            helper.make_node("Concat", ["foot", "head"], [name], axis=2),
        ]
    )
    graph.initializer.append(helper.make_tensor("one.place", TensorProto.INT64, [1], [1]))
    _known_as(graph, name, "whole", "head", "foot")


def overflow_float16(graph: GraphProto) -> None:
    """A detour through numbers that only a wider dtype can hold."""
    _detour(graph, "model.layers.1.mlp.Add", [("Mul", 2.0**10)] * 2 + [("Mul", 2.0**-10)] * 2)


def lose_bits(graph: GraphProto) -> None:
    """Of what a layer gives, three of a narrow dtype's bits: lost in the rounding of a sum that is too large."""
    _detour(graph, "model.layers.1.self_attn.o_proj.Gemm", [("Add", 2.0**6), ("Sub", 2.0**6)])


ONE = "const.int64.scalar.1"


def _place(graph: GraphProto, result: str) -> int:
    return next(n for n, node in enumerate(graph.node) if result in node.output)


def _rename(graph: GraphProto, old: str, new: str) -> None:
    """The same value under another name, for all who make and read it."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


def _known_as(graph: GraphProto, like: str, *names: str) -> None:
    """Values of the same dtype and rank as another."""
    known = next(value for value in [*graph.output, *graph.value_info] if value.name == like)
    for name in names:
        copy = graph.value_info.add()
        copy.CopyFrom(known)
        copy.name = name


def _detour(graph: GraphProto, value: str, steps: list[tuple[str, float]]) -> None:
    """Lets the readers of a value read what comes of it after some steps with constants."""
    kind = next(known for known in graph.value_info if known.name == value).type.tensor_type.elem_type
    last, place = value, _place(graph, value) + 1
    for node in graph.node:
        node.input[:] = [f"{value}.{len(steps) - 1}" if name == value else name for name in node.input]
    for n, (operator, constant) in enumerate(steps):
        graph.initializer.append(helper.make_tensor(f"detour.{n}", kind, [], [constant]))
        graph.node.insert(place + n, helper.make_node(operator, [last, f"detour.{n}"], [f"{value}.{n}"]))
        last = f"{value}.{n}"
        _known_as(graph, value, last)


def _sort(graph: GraphProto) -> None:
    """Brings every node behind those that it reads from."""
    made, left = {value.name for value in [*graph.input, *graph.initializer]} | {""}, list(graph.node)
    sorted_nodes = []
    while left:
        node = next(node for node in left if made.issuperset(node.input))
        left.remove(node)
        made |= set(node.output)
        sorted_nodes.append(node)
    del graph.node[:]
    graph.node.extend(sorted_nodes)


# ------------------------------------------------------------------------------ all of them

ROUTED = ("semantics", "distribution")  # a choice, which is judged by itself
CALLS = ("semantics", "distribution")  # what goes wrong between calls: a prompt in one is right
FAITHFUL = ("weights", "dtype", "distribution")  # where semantics takes the source's weights, and the graph is right

PLANTED = {
    "two-experts-swapped": Fault(
        "two experts in each other's place",
        swap_two_experts,
        weight=EXPERTS + "gate_up_proj",
        wide=LEVELS,
        thin=FAITHFUL,
    ),
    "expert-missing": Fault(
        "an expert left at zero",
        in_weight(EXPERTS + "down_proj", leave_out_an_expert),
        weight=EXPERTS + "down_proj",
        wide=LEVELS,
        thin=FAITHFUL,
    ),
    "correction-bias-zero": Fault(
        "the router's correction bias left at zero",
        in_weight(BIAS, zero),
        weight=BIAS,
        wide=("weights", "semantics", "distribution"),
        thin=("weights", "distribution"),
    ),
    "correction-bias-dropped": Fault(
        "the correction bias not added", in_graph(drop_the_correction_bias), wide=ROUTED, thin=ROUTED
    ),
    "weights-with-bias": Fault("experts weighed by the biased scores", in_graph(weigh_by_biased_scores)),
    "group-limit-ignored": Fault(
        "all groups of experts open", in_graph(ignore_the_group_limit), wide=ROUTED, thin=ROUTED
    ),
    "one-expert-fewer": Fault("three experts for a token instead of four", config={"num_experts_per_tok": 3}),
    "weights-not-normalised": Fault("experts' weights not normalised", config={"norm_topk_prob": False}),
    "routed-scaling-98-percent": Fault(
        "routed experts scaled by 2 % less", in_graph(scale_routed_experts_by_two_percent_less), thin=("semantics",)
    ),
    "shared-experts-missing": Fault("shared experts not added", in_graph(forget_the_shared_experts)),
    "yarn-without-mscale": Fault("YaRN's mscale left out of the attention's scale", in_graph(forget_mscale)),
    "rope-frequency-0.1-percent": Fault(
        "RoPE's frequencies 0.1 % too high",
        raise_rope_frequencies,
        weight=COS,
        wide=LEVELS,
        thin=FAITHFUL,
    ),
    "rope-not-interleaved": Fault("RoPE's pairs taken as halves", config={"rope_interleave": False}),
    "rope-scaling-dropped": Fault(
        "RoPE without its scaling", config={"rope_scaling": None}, weight=COS, wide=LEVELS, thin=LEVELS
    ),
    "positions-from-zero": Fault(
        "each call's positions begin at zero", in_graph(turn_by_the_place_in_the_call), wide=CALLS, thin=CALLS
    ),
    "rms-epsilon-1e-5": Fault("RMSNorm's epsilon 1e-5 for 1e-6", in_graph(take_another_epsilon), thin=("semantics",)),
    "last-norm-missing": Fault("the last norm left out", in_graph(forget_the_last_norm)),
    "mask-off-by-one": Fault("each token sees the next one", in_graph(see_the_next_token)),
    "padding-read": Fault("padding is read", in_graph(read_what_is_padded), wide=("semantics",), thin=("semantics",)),
    "cache-in-front": Fault("the cache grows at the wrong end", in_graph(append_in_front), wide=CALLS, thin=CALLS),
    "cache-shifted": Fault(
        "the cache is handed on shifted by one place",
        in_graph(forget_the_last_entry),
    ),
    "window-off-by-one": Fault("the sliding window one token too wide", config={"sliding_window": 8}, model="mistral"),
    "square-transposed": Fault(
        "a square matrix transposed",
        in_weight(ATTENTION + "q_proj.weight", transpose),
        model="llama",
        weight=ATTENTION + "q_proj.weight",
        wide=LEVELS,
        thin=FAITHFUL,
    ),
    "key-heads-swapped": Fault(
        "key heads in each other's place",
        in_weight(ATTENTION + "k_proj.weight", swap_key_heads),
        model="llama",
        weight=ATTENTION + "k_proj.weight",
        wide=LEVELS,
        thin=FAITHFUL,
    ),
    "bias-dropped": Fault(
        "a projection's bias left at zero",
        in_weight(ATTENTION + "q_proj.bias", zero),
        model="qwen2",
        weight=ATTENTION + "q_proj.bias",
        wide=LEVELS,
        thin=FAITHFUL,
    ),
    "output-not-tied": Fault(
        "the output 1 % off the embedding that it is tied to",
        in_graph(untie_the_output),
        model="qwen2",
        thin=("semantics", "dtype"),
    ),
    "one-bit": Fault(
        "the last bit of one number",
        flip_one_bit,
        weight=ATTENTION + "o_proj.weight",
        wide=("weights",),
        thin=("weights",),
    ),
    "bits-lost": Fault("three bits of a narrow dtype lost on the way", in_graph(lose_bits), wide=(), thin=("dtype",)),
    "overflow": Fault(
        "numbers that overflow float16 on the way",
        in_graph(overflow_float16),
        wide=(),
        thin=("dtype", "distribution"),
        narrow="float16",
    ),
}


PLACES: dict[str, Place] = {  # of what faults.py plants and the semantics level finds
    "two-experts-swapped": (1, "mlp.experts"),
    "expert-missing": (1, "mlp.experts"),
    "correction-bias-zero": (2, "mlp.gate"),
    "correction-bias-dropped": (1, "mlp.gate"),
    "weights-with-bias": (1, "mlp.gate"),
    "group-limit-ignored": (1, "mlp.gate"),
    "one-expert-fewer": (1, "mlp.gate"),
    "weights-not-normalised": (1, "mlp.gate"),
    "routed-scaling-98-percent": (1, "mlp.gate"),
    "shared-experts-missing": (1, "residual"),  # the sum reads the routed experts alone
    "yarn-without-mscale": (0, "self_attn"),
    "rope-frequency-0.1-percent": (None, "rotary_emb"),
    "rope-not-interleaved": (0, "self_attn"),
    "rope-scaling-dropped": (None, "rotary_emb"),
    "positions-from-zero": (None, "rotary_emb"),
    "rms-epsilon-1e-5": (0, "input_layernorm"),
    "last-norm-missing": (None, "lm_head"),  # which reads what the norm should
    "mask-off-by-one": (None, "mask"),
    "padding-read": (None, "mask"),
    "cache-in-front": (0, "cache"),
    "cache-shifted": (1, "cache"),
    "window-off-by-one": (None, "mask"),
    "square-transposed": (1, "self_attn.q_proj"),
    "key-heads-swapped": (1, "self_attn.k_proj"),
    "bias-dropped": (1, "self_attn.q_proj"),
    "output-not-tied": (None, "lm_head"),
}


def where(name: str) -> str:
    """The place of a fault that semantics finds, in words."""
    layer, block = PLACES.get(name, (None, ""))
    return block if layer is None else f"layer {layer}, `{block}`"


def table() -> str:
    """All of them in Markdown, by the levels that must find them."""
    head = ["mistake", *(f"{level}" for level in LEVELS), *(f"narrow: {level}" for level in LEVELS), "located"]
    rows = [head, ["---", *[":-:"] * 8, "---"]]
    for name, fault in PLANTED.items():
        marks = ["●" if level in found else "" for found in (fault.wide, fault.thin) for level in LEVELS]
        rows.append([fault.what + (" (float16)" if fault.narrow == "float16" else ""), *marks, where(name)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
