"""Mixture of experts: routers, routed experts stacked in one tensor, shared experts."""

from __future__ import annotations

import onnx_ir as ir

from porter.blocks.mlp import GatedMLP
from porter.blocks.module import Module, Parameter
from porter.blocks.step import Step
from porter.dialect import BIASED_EXPERTS, EXPERTS, ROUTE
from porter.graph import cast
from porter.layout import ONE_CARD, WHOLE, Indivisible, Layout, cut_of


class Router(Module):
    """Chooses `top_k` experts per token by softmax over the router's logits (Mixtral, Qwen3-MoE).

    The logits are computed at the port's dtype and the choice made in float32, as transformers does.
    The values named `<path>.logits` and `<path>.experts` are what `porter verify` watches.
    """

    def __init__(self, hidden_size: int, experts: int, top_k: int, normalize: bool) -> None:
        self.weight = Parameter((experts, hidden_size))
        self.top_k = top_k
        self.rule: dict[str, object] = {
            "experts": experts,
            "scoring": "softmax",
            "top_k": top_k,
            "normalize": int(normalize),
            "scale": 1.0,
        }

    def forward(self, step: Step, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """X [tokens, hidden] → weights [tokens, top_k] float32 and experts [tokens, top_k] int64."""
        graph, op = step.graph, step.graph.op
        logits = op.Gemm(x, self.weight.value(graph, step.dtype), transB=1)
        return self.route(step, cast(graph, logits, ir.DataType.FLOAT), None)

    def route(self, step: Step, logits: ir.Value, bias: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        weights, experts = ROUTE(step.graph, logits, bias, **self.rule)
        logits.name, experts.name = f"{self.path}.logits", f"{self.path}.experts"
        return weights, experts


class Float32Router(Router):
    """A router whose logits are computed in float32 from float32 weights, with DeepSeek-V2's choice: softmax scores,
    optionally only among the `top_groups` groups of experts whose best score is highest; weights not normalised.
    """

    def __init__(
        self, hidden_size: int, experts: int, top_k: int, scale: float, groups: int = 1, top_groups: int = 1
    ) -> None:
        super().__init__(hidden_size, experts, top_k, normalize=False)
        self.weight = Parameter((experts, hidden_size), storage="float32")
        self.rule |= {"scale": scale}
        if groups > 1:
            self.rule |= {"groups": groups, "top_groups": top_groups, "group_score": "max"}

    def forward(self, step: Step, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        return self.route(step, self.logits(step, x), None)

    def logits(self, step: Step, x: ir.Value) -> ir.Value:
        wide = cast(step.graph, x, ir.DataType.FLOAT)
        return step.graph.op.Gemm(wide, self.weight.value(step.graph, step.dtype), transB=1)


class BiasedRouter(Float32Router):
    """DeepSeek-V3 (arXiv:2412.19437, section 2.1.2): sigmoid scores; a correction bias steers the choice but not the
    weights; a group counts by the sum of its two best.
    """

    def __init__(
        self, hidden_size: int, experts: int, top_k: int, scale: float, groups: int, top_groups: int, normalize: bool
    ) -> None:
        super().__init__(hidden_size, experts, top_k, scale)
        self.e_score_correction_bias = Parameter((experts,), storage="float32", learned=False)
        self.rule |= {"scoring": "sigmoid", "normalize": int(normalize), "epsilon": 1e-20}
        self.rule |= {"groups": groups, "top_groups": top_groups, "group_score": "top2"}

    def forward(self, step: Step, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        return self.route(step, self.logits(step, x), self.e_score_correction_bias.value(step.graph, step.dtype))


class NormedFloat32Router(Float32Router):
    """Softmax scores in float32, those of the chosen experts made to sum to one (Hunyuan)."""

    def __init__(self, hidden_size: int, experts: int, top_k: int) -> None:
        super().__init__(hidden_size, experts, top_k, 1.0)
        self.rule |= {"normalize": 1}


class OpenRouter(Router):
    """Logits with a bias of their own; the softmax is over those of the chosen experts (GPT-OSS), which is the one over
    all made to sum to one.
    """

    def __init__(self, hidden_size: int, experts: int, top_k: int) -> None:
        super().__init__(hidden_size, experts, top_k, normalize=True)
        self.bias = Parameter((experts,))

    def forward(self, step: Step, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        graph, op = step.graph, step.graph.op
        logits = op.Gemm(x, self.weight.value(graph, step.dtype), transB=1)
        logits = op.Add(logits, self.bias.value(graph, step.dtype))
        return self.route(step, cast(graph, logits, ir.DataType.FLOAT), None)


class BiasedSoftmaxRouter(Float32Router):
    """ERNIE 4.5 (its report, section 2.1): softmax scores that a correction bias steers, as DeepSeek-V3's; weights
    divided by their sum, and by `least` where that is more.
    """

    def __init__(self, hidden_size: int, experts: int, top_k: int, least: float) -> None:
        super().__init__(hidden_size, experts, top_k, 1.0)
        self.e_score_correction_bias = Parameter((experts,), storage="float32", learned=False)
        self.rule |= {"normalize": 1, "least": least}

    def forward(self, step: Step, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        return self.route(step, self.logits(step, x), self.e_score_correction_bias.value(step.graph, step.dtype))


class BiasedSigmoidRouter(Router):
    """MiniMax-M2: logits at the port's dtype, sigmoid scores, a correction bias that steers the choice only."""

    def __init__(self, hidden_size: int, experts: int, top_k: int) -> None:
        super().__init__(hidden_size, experts, top_k, normalize=True)
        self.e_score_correction_bias = Parameter((experts,), storage="float32", learned=False)
        self.rule |= {"scoring": "sigmoid"}

    def forward(self, step: Step, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        graph = step.graph
        logits = graph.op.Gemm(x, self.weight.value(graph, step.dtype), transB=1)
        bias = self.e_score_correction_bias.value(graph, step.dtype)
        return self.route(step, cast(graph, logits, ir.DataType.FLOAT), bias)


class Experts(Module):
    """All routed experts of a layer: gate_up_proj [E, 2F, D] (gate rows above up rows), down_proj [E, D, F].

    Of several cards each has a share of the experts and of their inner size, and gives what these add. Where `places`
    tells which expert lies in each place, a table leads from an expert's number to its place.
    """

    def __init__(
        self, hidden_size: int, intermediate_size: int, experts: int, top_k: int, *, layout: Layout = ONE_CARD
    ) -> None:
        own, inner = layout.experts(experts), layout.divided(intermediate_size, "inner features of an expert")
        count, width = own.of(experts), inner.of(intermediate_size)
        self.top_k, self.everyone = top_k, experts
        self.places: tuple[int, ...] | None = None
        self.offset = own.span(experts)[0] if own.parts > 1 else None
        self.gate_up_proj = Parameter(
            (count, 2 * width, hidden_size),
            quantizable=True,
            cut=cut_of((experts, 2, intermediate_size, hidden_size), own, WHOLE, inner, WHOLE),
        )
        self.down_proj = Parameter(
            (count, hidden_size, width),
            quantizable=True,
            cut=cut_of((experts, hidden_size, intermediate_size), own, WHOLE, inner),
        )

    def forward(self, step: Step, x: ir.Value, weights: ir.Value, experts: ir.Value) -> ir.Value:
        graph, both = step.graph, (self.gate_up_proj, self.down_proj)
        first, second = ((*p.values(graph, step.dtype), None, None)[:3] for p in both)
        if self.places is not None:
            table = sorted(range(self.everyone), key=self.places.__getitem__)
            experts = graph.op.Gather(graph.constant(table, ir.DataType.INT64), experts)
        inputs = (x, weights, experts, first[0], second[0], *first[1:], *second[1:])
        tokens, count = step.sizes.tokens, self.gate_up_proj.shape[0]
        rule = {"top_k": self.top_k, "few": None if tokens is None else int(tokens * self.top_k <= count)}
        rule |= {"offset": self.offset}
        forms = {p.quantization for p in both if p.quantization}
        if forms:
            (form,) = forms
            rule |= {"bits": form.bits, "block": form.block}
        return EXPERTS(graph, *inputs, **rule)


class BiasedExperts(Module):
    """Experts whose maps lie with their inputs first and have biases, gates and ups in turn; on one card only."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        experts: int,
        top_k: int,
        *,
        alpha: float,
        limit: float,
        layout: Layout = ONE_CARD,
    ) -> None:
        if layout.tp * layout.ep > 1:
            raise Indivisible("experts with biases are not divided over cards", "leave out --tp and --ep")
        self.gate_up_proj = Parameter((experts, hidden_size, 2 * intermediate_size))
        self.gate_up_proj_bias = Parameter((experts, 2 * intermediate_size))
        self.down_proj = Parameter((experts, intermediate_size, hidden_size))
        self.down_proj_bias = Parameter((experts, hidden_size))
        self.count, self.top_k = experts, top_k
        self.rule: dict[str, float] = {"top_k": top_k, "alpha": alpha, "limit": limit}

    def forward(self, step: Step, x: ir.Value, weights: ir.Value, experts: ir.Value) -> ir.Value:
        parts = (self.gate_up_proj, self.gate_up_proj_bias, self.down_proj, self.down_proj_bias)
        tokens = step.sizes.tokens
        few = None if tokens is None else int(tokens * self.top_k <= self.count)
        values = (part.value(step.graph, step.dtype) for part in parts)
        return BIASED_EXPERTS(step.graph, x, weights, experts, *values, **self.rule, few=few)


class MixtureOfExperts(Module):
    """Each token through the experts that its router chose."""

    def __init__(self, gate: Router, experts: Experts | BiasedExperts) -> None:
        self.gate, self.experts = gate, experts

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        return step.reduce(self.routed(step, x), step.layout.widest())

    def routed(self, step: Step, x: ir.Value) -> ir.Value:
        """What the experts of this card add."""
        weights, experts = self.gate(step, x)
        return self.experts(step, x, weights, experts)


class Opinion(Module):
    """How much of something each token takes: the sigmoid of x · weight, [tokens, 1]."""

    def __init__(self, hidden_size: int) -> None:
        self.weight = Parameter((1, hidden_size))

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        op = step.graph.op
        return op.Sigmoid(op.Gemm(x, self.weight.value(step.graph, step.dtype), transB=1))


class GatedSharedMixtureOfExperts(MixtureOfExperts):
    """With an expert that sees every token, of which each takes a share (Qwen2-MoE)."""

    def __init__(self, gate: Router, experts: Experts, shared: GatedMLP, hidden_size: int) -> None:
        super().__init__(gate, experts)
        self.shared_expert = shared
        self.shared_expert_gate = Opinion(hidden_size)

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        op = step.graph.op
        shared = op.Mul(self.shared_expert_gate(step, x), self.shared_expert(step, x))
        return op.Add(super().forward(step, x), shared)


class SharedMixtureOfExperts(MixtureOfExperts):
    """With experts that see every token, added to the routed ones."""

    def __init__(self, gate: Router, experts: Experts, shared: GatedMLP) -> None:
        super().__init__(gate, experts)
        self.shared_experts = shared

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        routed, last = step.reduce(self.routed(step, x), "ep"), self.shared_experts.down_proj
        both = step.reduce(step.graph.op.Add(routed, self.shared_experts(step, x)), "tp")
        return last.close(step, both) if last.open else both
