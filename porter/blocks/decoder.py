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
from porter.quantize import Quantization
from porter.shape import GROWING, Sizes


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
    """`model.` of a Hugging Face checkpoint."""

    def __init__(
        self, vocabulary: int, hidden_size: int, epsilon: float, layers: list[DecoderLayer], rope: Rope
    ) -> None:
        self.embed_tokens = Embedding(vocabulary, hidden_size)
        self.rotary_emb = rope.module()
        self.layers = ModuleList(list(layers))
        self.norm = RMSNorm(hidden_size, epsilon)

    def forward(self, step: Step, past: Sequence[Sequence[ir.Value]]) -> tuple[ir.Value, list[list[ir.Value]]]:
        x, rotation, caches = self.embed_tokens(step, step.input_ids), self.rotary_emb(step), []
        for layer, entries in zip(self.layers, past, strict=True):
            x, cache = layer(step, x, rotation, entries)
            caches.append(cache)
        return self.norm(step, x), caches


class Decoder(Module):
    """A whole causal language model."""

    def __init__(
        self, vocabulary: int, hidden_size: int, epsilon: float, layers: list[DecoderLayer], rope: Rope, *, tied: bool
    ) -> None:
        self.model = Body(vocabulary, hidden_size, epsilon, layers, rope)
        self.lm_head: Module = TiedHead(self.model.embed_tokens) if tied else Linear(hidden_size, vocabulary)
        self.vocabulary = vocabulary

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
        past = [
            [graph.input(f"past_key_values.{n}.{e.name}", dtype, [batch, e.heads, before, e.width]) for e in entries]
            for n, entries in enumerate(self.cache())
        ]
        kind = GrowingStep if sizes.context is None else PositionedStep
        step = kind(graph, dtype, ids, positions, mask, sizes)
        x, present = self.model(step, past)
        logits = graph.op.Reshape(self.lm_head(step, x), step.shape("new", self.vocabulary))
        graph.output(logits, "logits", [batch, sizes.sequence, self.vocabulary])
        for n, (entries, values) in enumerate(zip(self.cache(), present, strict=True)):
            for entry, value in zip(entries, values, strict=True):
                graph.output(value, f"present.{n}.{entry.name}", [batch, entry.heads, behind, entry.width])
        return graph.root
