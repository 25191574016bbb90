"""The decoder-only transformer: embedding, pre-norm layers, final norm, output projection; its graph's interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from porter.blocks.attention import CacheEntry
from porter.blocks.linear import Embedding, Linear, TiedHead
from porter.blocks.module import Module, ModuleList, Parameter
from porter.blocks.norm import RMSNorm
from porter.blocks.rope import Rope, Rotation
from porter.blocks.step import GrowingStep, PositionedStep, Step
from porter.errors import GraphError
from porter.graph import Graph
from porter.layout import ONE_CARD, Layout
from porter.quantize import Quantization
from porter.shape import GROWING, Sizes

HIDDEN = "hidden_states"  # what a stage of a pipeline is given by the one before it


class DecoderLayer(Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, hidden_size: int, epsilon: float, attention: Any, mlp: Module) -> None:
        self.input_layernorm = RMSNorm(hidden_size, epsilon)
        self.self_attn = attention
        self.post_attention_layernorm = RMSNorm(hidden_size, epsilon)
        self.mlp = mlp

    def forward(
        self, step: Step, x: ir.Value, rotation: Rotation, past: Sequence[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        op = step.graph.op
        mixed, cache = self.self_attn(step, self.input_layernorm(step, x), rotation, past)
        x = op.Add(x, mixed)
        x = op.Add(x, self.mlp(step, self.post_attention_layernorm(step, x)))
        x.name = f"{self.path}.output"  # watched by porter verify
        return x, cache


class Body(Module):
    """`model.` of a Hugging Face checkpoint, or what of it a stage of a pipeline has: layers from number `start` on."""

    def __init__(
        self,
        vocabulary: int,
        hidden_size: int,
        epsilon: float,
        layers: list[DecoderLayer],
        rope: Rope,
        *,
        tied: bool,
        layout: Layout,
        start: int,
    ) -> None:
        if layout.first or (layout.last and tied):
            share = layout.divided(vocabulary, "words of the vocabulary")
            self.embed_tokens = Embedding(vocabulary, hidden_size, share)
        self.rotary_emb = rope.module()
        self.layers = ModuleList(list(layers), start)
        if layout.last:
            self.norm = RMSNorm(hidden_size, epsilon)

    def forward(
        self, step: Step, past: Sequence[Sequence[ir.Value]], hidden: ir.Value | None
    ) -> tuple[ir.Value, list[list[ir.Value]]]:
        """From tokens, or from what the stage before made of them, to what the head or the next stage reads."""
        x = self.embed_tokens(step, step.input_ids) if hidden is None else hidden
        rotation, caches = self.rotary_emb(step), []
        for layer, entries in zip(self.layers, past, strict=True):
            x, cache = layer(step, x, rotation, entries)
            caches.append(cache)
        return self.norm(step, x) if step.layout.last else x, caches


class Decoder(Module):
    """A whole causal language model, or one card's share of it: then its layers are those from number `start` on."""

    def __init__(
        self,
        vocabulary: int,
        hidden_size: int,
        epsilon: float,
        layers: list[DecoderLayer],
        rope: Rope,
        *,
        tied: bool,
        layout: Layout = ONE_CARD,
        start: int = 0,
    ) -> None:
        self.model = Body(vocabulary, hidden_size, epsilon, layers, rope, tied=tied, layout=layout, start=start)
        if layout.last:
            share = layout.divided(vocabulary, "words of the vocabulary")
            self.lm_head: Module = TiedHead(self.model.embed_tokens) if tied else Linear(hidden_size, vocabulary, share)
        self.vocabulary, self.hidden_size, self.layout, self.start = vocabulary, hidden_size, layout, start

    def cache(self) -> list[tuple[CacheEntry, ...]]:
        """The cache tensors of each layer."""
        return [layer.self_attn.cache for layer in self.model.layers]

    def window(self) -> int | None:
        """The widest sliding window of any layer, None without one."""
        windows = [getattr(layer.self_attn, "window", None) for layer in self.model.layers]
        return max((w for w in windows if w is not None), default=None)

    def named_parameters(self) -> tuple[Parameter, ...]:
        """Every parameter once, named as in the checkpoint; raises GraphError where two would have one name."""
        named: dict[str, Parameter] = {}
        for parameter in self.parameters():
            if named.setdefault(parameter.name, parameter) is not parameter:
                raise GraphError(f"two parameters are called '{parameter.name}'", "give each weight a name of its own")
        return tuple(named.values())

    def quantizable(self) -> list[Parameter]:
        """The weights that `--quantize` means: linear maps and experts of the layers.

        Embeddings and the output projection, norms and biases, routers and W_UK and W_UV stay what they are: small, or
        read row by row, or what the choice of tokens and experts hangs on.
        """
        self.named_parameters()
        return [parameter for parameter in self.model.parameters("model") if parameter.quantizable]

    def quantize(self, form: Quantization) -> None:
        """Has these weights stored as codes, but for those whose rows are not made of whole blocks."""
        for parameter in self.quantizable():
            if form.fits(parameter.shape):
                parameter.quantization = form

    def build(self, dtype: ir.DataType, sizes: Sizes = GROWING[0].sizes) -> ir.Graph:
        """The neutral graph at `dtype` with these sizes: inputs and outputs as the port folder promises them."""
        self.named_parameters()
        graph, batch = Graph(), sizes.batch
        before, behind = ("past", "total") if sizes.context is None else (sizes.context, sizes.context)
        ids = graph.input("input_ids", ir.DataType.INT64, [batch, sizes.sequence])
        positions = graph.input("position_ids", ir.DataType.INT64, [batch, sizes.sequence])
        mask = graph.input("attention_mask", ir.DataType.INT64, [batch, behind])
        flat = [sizes.tokens or "tokens", self.hidden_size]
        hidden = None if self.layout.first else graph.input(HIDDEN, dtype, flat)
        past = [
            [graph.input(f"past_key_values.{n}.{e.name}", dtype, [batch, e.heads, before, e.width]) for e in entries]
            for n, entries in enumerate(self.cache(), self.start)
        ]
        kind = GrowingStep if sizes.context is None else PositionedStep
        step = kind(graph, dtype, ids, positions, mask, sizes, self.layout)
        x, present = self.model(step, past, hidden)
        if self.layout.last:
            words = step.gather(self.lm_head(step, x), "tp")  # [tokens, vocabulary]
            logits = graph.op.Reshape(words, step.shape("new", self.vocabulary))
            graph.output(logits, "logits", [batch, sizes.sequence, self.vocabulary])
        else:
            graph.output(x, str(x.name), flat)
        for n, (entries, values) in enumerate(zip(self.cache(), present, strict=True), self.start):
            for entry, value in zip(entries, values, strict=True):
                graph.output(value, f"present.{n}.{entry.name}", [batch, entry.heads, behind, entry.width])
        return graph.root
