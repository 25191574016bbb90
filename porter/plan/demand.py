"""What a model asks of a machine: its weights by how they divide, the multiplications and the cache of a token.

All is read off the network that the family builds, so no architecture is described twice. A multiplication and its
addition are two operations; a weight that a token meets costs two, whatever its dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from porter.blocks.attention import GroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.latent_attention import LatentAttention
from porter.blocks.linear import TiedHead
from porter.blocks.module import Module, Parameter
from porter.blocks.moe import Experts

# How a weight lies on the ranks of tensor parallelism: cut, cut by key and value heads at most, or whole on each.
Share = Literal["cut", "groups", "whole"]
# What it is stored in: the dtype that is asked for, the float that activations have, float32 (routers).
Store = Literal["asked", "float", "float32"]
WHOLE = {"q_a_proj", "kv_a_proj_with_mqa", "gate"}  # low-rank projections and routers: small, and all of it is needed
BY_GROUP = {"k_proj", "v_proj"}
ADDED_BEFORE = {"q_proj", "q_b_proj", "gate_proj", "up_proj"}  # whose biases are cut as their rows are


@dataclass(frozen=True)
class Weights:
    """Numbers that are stored and divided alike; `met` of them a token is multiplied by."""

    share: Share
    store: Store
    numbers: int
    met: int


@dataclass(frozen=True)
class Attention:
    """The sizes of one layer's attention. `latent` is 0 where keys and values themselves are cached.

    `width` is the numbers that are cached per token, `key` and `value` the widths of a head.
    """

    heads: int
    groups: int
    key: int
    value: int
    latent: int
    rope: int
    window: int | None
    width: int

    def seen(self, context: float) -> float:
        """How much of a context a token attends to."""
        return context if self.window is None else min(context, self.window)

    def absorbed(self, context: float) -> float:
        """Operations of one token: scores and mixing on what is cached."""
        if not self.latent:
            return self.expanded(context)
        return 2.0 * self.heads * (2 * self.latent + self.rope) * self.seen(context)

    def expanded(self, context: float) -> float:
        """Operations of one token with each head's keys and values at hand."""
        return 2.0 * self.heads * (self.key + self.value) * self.seen(context)


@dataclass(frozen=True)
class Routed:
    """The routed experts of a layer: `numbers` each; tokens stay within `top_groups` of `groups`."""

    count: int
    top_k: int
    numbers: int
    groups: int
    top_groups: int


@dataclass(frozen=True)
class Layer:
    """One layer: what is around its attention, its MLP or shared experts with the router, and its routed experts."""

    attention: Attention
    projections: tuple[Weights, ...]
    mlp: tuple[Weights, ...]
    routed: Routed | None


@dataclass(frozen=True)
class Demand:
    """A whole model."""

    hidden: int
    vocabulary: int
    widest: int  # numbers within the widest MLP that a token has: gate and up, of every expert that it meets
    columns: tuple[int, ...]  # the widths of MLPs and experts
    layers: tuple[Layer, ...]
    table: Weights  # the embedding, of which a token reads a row
    head: Weights  # the output projection, which is the embedding where it is tied
    norm: Weights
    tables: Weights  # of positions, computed and not learned, on every card
    tied: bool

    @cached_property
    def kinds(self) -> tuple[Layer, ...]:
        """The distinct layers."""
        return tuple(dict.fromkeys(self.layers))

    @cached_property
    def order(self) -> tuple[int, ...]:
        """For each layer which of `kinds` it is."""
        return tuple(map(self.kinds.index, self.layers))

    @property
    def experts(self) -> int:
        """How many routed experts the layers have that have any; 0 for a dense model."""
        return max((layer.routed.count for layer in self.kinds if layer.routed), default=0)

    @property
    def numbers(self) -> int:
        """All weights; tables are none."""
        outer = (self.table, self.norm) if self.tied else (self.table, self.norm, self.head)
        return _numbers(outer) + sum(
            _numbers((*layer.projections, *layer.mlp)) + _routed(layer.routed) for layer in self.layers
        )

    @property
    def cache_width(self) -> int:
        """Numbers that are cached per token in all layers."""
        return sum(layer.attention.width for layer in self.layers)

    def with_full_heads(self) -> Demand:
        """The same model with the keys and values of every head cached, as if there were no latent."""
        return replace(self, layers=tuple(replace(layer, attention=_full(layer.attention)) for layer in self.layers))

    def with_all_experts(self) -> Demand:
        """The same model with every expert met by every token."""
        return replace(self, layers=tuple(replace(layer, routed=_dense(layer.routed)) for layer in self.layers))


def demand_of(network: Decoder) -> Demand:
    """Read off a network; nothing is built and no weight is read."""
    parameters = network.named_parameters()  # which names them, and by their names they divide
    layers = tuple(_layer(layer) for layer in network.model.layers)
    embedding = network.model.embed_tokens.weight
    rows = math.prod(embedding.shape)
    (norm,) = _weights(network.model.norm.parameters(network.model.norm.path))
    return Demand(
        hidden=embedding.shape[1],
        vocabulary=network.vocabulary,
        widest=max(_widest(layer) for layer in network.model.layers),
        columns=tuple(sorted({width for layer in network.model.layers for width in _columns(layer)})),
        layers=layers,
        table=Weights("cut", "float", rows, 0),
        head=Weights("cut", "float", rows, rows),
        norm=norm,
        tables=Weights("whole", "float", sum(math.prod(p.shape) for p in parameters if p.table is not None), 0),
        tied=isinstance(network.lm_head, TiedHead),
    )


def _layer(layer: DecoderLayer) -> Layer:
    experts = getattr(layer.mlp, "experts", None)
    before = [getattr(layer, name, None) for name in ("input_layernorm", "self_attn")]
    around = [parameter for module in before if module for parameter in _parameters(module)]
    rest = [p for p in _parameters(layer) if p not in around and not (experts and p in _parameters(experts))]
    rule = getattr(getattr(layer.mlp, "gate", None), "rule", {})
    return Layer(
        _attention(layer.self_attn), _weights(around), _weights(rest), _experts(experts, rule) if experts else None
    )


def _parameters(module: Module) -> Iterable[Parameter]:
    return list(module.parameters(module.path))


def _attention(module: LatentAttention | GroupedQueryAttention) -> Attention:
    width = sum(entry.heads * entry.width for entry in module.cache)
    if isinstance(module, LatentAttention):
        m = module.mixer
        return Attention(m.heads, 1, m.nope + m.rope, m.value, m.latent, m.rope, None, width)
    return Attention(module.heads, module.groups, module.head_dim, module.head_dim, 0, 0, module.window, width)


def _experts(module: Experts, rule: dict[str, int]) -> Routed:
    count = module.gate_up_proj.shape[0]
    numbers = sum(math.prod(parameter.shape) for parameter in _parameters(module)) // count
    return Routed(count, module.top_k, numbers, rule.get("groups", 1), rule.get("top_groups", 1))


def _weights(parameters: Iterable[Parameter]) -> tuple[Weights, ...]:
    """Those that are stored and divided alike, added up."""
    found: dict[tuple[Share, Store], tuple[int, int]] = {}
    for p in parameters:
        if p.table is None:
            key, count = (_share(p), _store(p)), math.prod(p.shape)
            numbers, met = found.get(key, (0, 0))
            found[key] = numbers + count, met + (count if len(p.shape) > 1 else 0)
    return tuple(Weights(*key, *counts) for key, counts in found.items())


def _share(parameter: Parameter) -> Share:
    *_, module, kind = parameter.name.split(".")
    if module in BY_GROUP:
        return "groups"
    if module in WHOLE or (len(parameter.shape) == 1 and not (kind == "bias" and module in ADDED_BEFORE)):
        return "whole"
    return "cut"


def _store(parameter: Parameter) -> Store:
    if parameter.storage == "float32":
        return "float32"
    return "asked" if parameter.quantizable else "float"


def _widest(layer: DecoderLayer) -> int:
    """Gate and up of the MLP, or of the shared experts and of the routed ones that a token meets."""
    experts = getattr(layer.mlp, "experts", None)
    met = experts.top_k if experts else 0
    routed, *shared = _columns(layer) if met else (0, *_columns(layer))
    return 2 * (routed * met + sum(shared))


def _columns(layer: DecoderLayer) -> Iterable[int]:
    experts, mlp = getattr(layer.mlp, "experts", None), getattr(layer.mlp, "shared_experts", layer.mlp)
    if experts:
        gate_up, down = experts.gate_up_proj.shape, experts.down_proj.shape
        yield down[-1] if gate_up[-1] == down[1] else down[1]  # maps lie with their outputs first, or their inputs
    if hasattr(mlp, "gate_proj"):
        yield mlp.gate_proj.weight.shape[0]


def _full(attention: Attention) -> Attention:
    if not attention.latent:
        return attention
    width = attention.heads * (attention.key + attention.value)
    return replace(attention, groups=attention.heads, latent=0, rope=0, width=width)


def _dense(routed: Routed | None) -> Routed | None:
    return routed and replace(routed, top_k=routed.count, groups=1, top_groups=1)


def _numbers(weights: Iterable[Weights]) -> int:
    return sum(w.numbers for w in weights)


def _routed(routed: Routed | None) -> int:
    return routed.count * routed.numbers if routed else 0
