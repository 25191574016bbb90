"""Linear layers and embeddings, reading their weights as they lie on disk."""

from __future__ import annotations

import onnx_ir as ir

from porter.blocks.module import Module, Parameter
from porter.blocks.step import Step
from porter.dialect import QUANTIZED_LINEAR
from porter.layout import WHOLE, Share, cut_of


class Linear(Module):
    """y = x @ weight.T, weight [out_features, in_features]: one Gemm with transB, so that no weight is transposed.

    A weight of codes goes into the function of the dialect whole, since some front ends have an operator for both.
    Of several cards each has a share of the rows, or of the columns: then it takes a share of x, and the cards' results
    are summed, unless the sum is left `open` to whoever calls.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rows: Share = WHOLE,
        columns: Share = WHOLE,
        *,
        open: bool = False,
    ) -> None:
        shape = (rows.of(out_features), columns.of(in_features))
        self.weight = Parameter(shape, quantizable=True, cut=cut_of((out_features, in_features), rows, columns))
        self.summed, self.open = columns.parts > 1 and not open, open

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        own = self._own(step, x)
        return step.reduce(own, "tp") if self.summed else own

    def close(self, step: Step, x: ir.Value) -> ir.Value:
        """What is left to be done behind an open sum: nothing."""
        return x

    def _own(self, step: Step, x: ir.Value) -> ir.Value:
        form, stored = self.weight.quantization, self.weight.values(step.graph, step.dtype)
        if form is None:
            return step.graph.op.Gemm(x, *stored, transB=1)
        outputs, inputs = self.weight.shape
        return QUANTIZED_LINEAR(
            step.graph, x, *stored, bits=form.bits, block=form.block, inputs=inputs, outputs=outputs
        )


class BiasedLinear(Linear):
    """Linear with a bias, added by its own node: some front ends ignore Gemm's third input."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rows: Share = WHOLE,
        columns: Share = WHOLE,
        *,
        open: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, rows, columns, open=open)
        self.bias = Parameter((rows.of(out_features),), cut=cut_of((out_features,), rows))

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        own = super().forward(step, x)
        return own if self.open else self.close(step, own)

    def close(self, step: Step, x: ir.Value) -> ir.Value:
        return step.graph.op.Add(x, self.bias.value(step.graph, step.dtype))


def linear(
    in_features: int,
    out_features: int,
    bias: bool,
    *,
    rows: Share = WHOLE,
    columns: Share = WHOLE,
    open: bool = False,
) -> Linear:
    """The linear layer that a config's `*_bias` asks for."""
    return (BiasedLinear if bias else Linear)(in_features, out_features, rows, columns, open=open)


class Embedding(Module):
    """Rows of weight [vocabulary, width] by token id; of several cards each has a share of the vocabulary."""

    def __init__(self, vocabulary: int, width: int, share: Share = WHOLE) -> None:
        self.weight = Parameter((share.of(vocabulary), width), cut=cut_of((vocabulary, width), share, WHOLE))
        self.width, self.share = width, share
        self.known = share.span(vocabulary)

    def forward(self, step: Step, ids: ir.Value) -> ir.Value:
        op = step.graph.op
        rows = self._rows(step, ids)  # [batch, sequence, width]
        rows.name = f"{self.path}.rows"  # watched by porter verify
        flat: ir.Value = op.Reshape(rows, step.graph.ints(-1, self.width))  # [batch * sequence, width]
        return step.reduce(flat, "tp") if self.share.parts > 1 else flat

    def _rows(self, step: Step, ids: ir.Value) -> ir.Value:
        """Those of the words that this card has, zeros for all others."""
        graph, op, weight = step.graph, step.graph.op, self.weight.value(step.graph, step.dtype)
        if self.share.parts == 1:
            return op.Gather(weight, ids, axis=0)
        first, after = (graph.constant(n, ir.DataType.INT64) for n in self.known)
        mine = op.And(op.LessOrEqual(first, ids), op.Less(ids, after))  # [batch, sequence]
        own = op.Where(mine, op.Sub(ids, first), graph.constant(0, ir.DataType.INT64))
        rows = op.Gather(weight, own, axis=0)
        return op.Where(op.Unsqueeze(mine, graph.ints(2)), rows, graph.constant(0, step.dtype))


class TiedHead(Module):
    """The output projection that shares the embedding's weight (`tie_word_embeddings`)."""

    def __init__(self, embedding: Embedding) -> None:
        self.weight = embedding.weight

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        return step.graph.op.Gemm(x, self.weight.value(step.graph, step.dtype), transB=1)
