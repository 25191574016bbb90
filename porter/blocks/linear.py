"""Linear layers and embeddings, reading their weights as they lie on disk."""

from __future__ import annotations

import onnx_ir as ir

from porter.blocks.module import Module, Parameter
from porter.blocks.step import Step


class Linear(Module):
    """y = x @ weight.T, weight [out_features, in_features]: one Gemm with transB, so that no weight is transposed."""

    def __init__(self, in_features: int, out_features: int) -> None:
        self.weight = Parameter((out_features, in_features), quantizable=True)

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        return step.graph.op.Gemm(x, self.weight.value(step.graph, step.dtype), transB=1)


class BiasedLinear(Linear):
    """Linear with a bias, added by its own node: some front ends ignore Gemm's third input."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.bias = Parameter((out_features,))

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        return step.graph.op.Add(super().forward(step, x), self.bias.value(step.graph, step.dtype))


def linear(in_features: int, out_features: int, bias: bool) -> Linear:
    """The linear layer that a config's `*_bias` asks for."""
    return (BiasedLinear if bias else Linear)(in_features, out_features)


class Embedding(Module):
    """Rows of weight [vocabulary, width] by token id."""

    def __init__(self, vocabulary: int, width: int) -> None:
        self.weight = Parameter((vocabulary, width))
        self.width = width

    def forward(self, step: Step, ids: ir.Value) -> ir.Value:
        op = step.graph.op
        rows = op.Gather(self.weight.value(step.graph, step.dtype), ids, axis=0)  # [batch, sequence, width]
        rows.name = f"{self.path}.rows"  # watched by porter verify
        return op.Reshape(rows, step.graph.ints(-1, self.width))  # [batch * sequence, width]


class TiedHead(Module):
    """The output projection that shares the embedding's weight (`tie_word_embeddings`)."""

    def __init__(self, embedding: Embedding) -> None:
        self.weight = embedding.weight

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        return step.graph.op.Gemm(x, self.weight.value(step.graph, step.dtype), transB=1)
