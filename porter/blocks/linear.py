"""Linear layers and embeddings, reading their weights as they lie on disk."""

from __future__ import annotations

import onnx_ir as ir

from porter.blocks.module import Module, Parameter
from porter.blocks.step import Step
from porter.dialect import QUANTIZED_LINEAR


class Linear(Module):
    """y = x @ weight.T, weight [out_features, in_features]: one Gemm with transB, so that no weight is transposed.

    A weight of codes goes into the function of the dialect whole, since some front ends have an operator for both.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        self.weight = Parameter((out_features, in_features), quantizable=True)

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        form, stored = self.weight.quantization, self.weight.values(step.graph, step.dtype)
        if form is None:
            return step.graph.op.Gemm(x, *stored, transB=1)
        outputs, inputs = self.weight.shape
        return QUANTIZED_LINEAR(
            step.graph, x, *stored, bits=form.bits, block=form.block, inputs=inputs, outputs=outputs
        )


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
