"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1) in its two exact forms.

The cache holds, per token, the normalised latent and the rotated key part that all heads share: kv_lora_rank +
qk_rope_head_dim numbers, never the heads. `kv_b_proj` is stored once, as its key rows (W_UK) and value rows (W_UV).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porter.blocks.attention import CacheEntry
from porter.blocks.linear import Linear, linear
from porter.blocks.module import Module, Parameter
from porter.blocks.norm import RMSNorm
from porter.blocks.rope import Rotation
from porter.blocks.step import Step
from porter.dialect import ATTENTION, ROTARY_EMBEDDING
from porter.layout import ONE_CARD, WHOLE, Layout, Share, cut_of

LATENT_EPSILON = 1e-6  # of q_a_layernorm and kv_a_layernorm: fixed in the published models, whatever rms_norm_eps says


class FullRankQuery(Module):
    """q_proj(x): models without q_lora_rank."""

    transparent = True

    def __init__(self, hidden_size: int, width: int, share: Share = WHOLE) -> None:
        self.q_proj = Linear(hidden_size, width, share)

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        return self.q_proj(step, x)


class LowRankQuery(Module):
    """q_b_proj(norm(q_a_proj(x)))."""

    transparent = True

    def __init__(self, hidden_size: int, rank: int, width: int, bias: bool, share: Share = WHOLE) -> None:
        self.q_a_proj = linear(hidden_size, rank, bias)
        self.q_a_layernorm = RMSNorm(rank, LATENT_EPSILON)
        self.q_b_proj = Linear(rank, width, share)

    def forward(self, step: Step, x: ir.Value) -> ir.Value:
        return self.q_b_proj(step, self.q_a_layernorm(step, self.q_a_proj(step, x)))


class Heads(Module):
    """The sizes of latent heads, of which each card has a share; a subclass says how queries meet the latent cache."""

    transparent = True

    def __init__(self, heads: int, latent: int, nope: int, rope: int, value: int, layout: Layout = ONE_CARD) -> None:
        self.all_heads, self.share = heads, layout.divided(heads, "attention heads")
        self.heads, self.latent, self.nope, self.rope, self.value = self.share.of(heads), latent, nope, rope, value


class AbsorbedHeads(Heads):
    """Queries folded into the latent space: scores and mixing run on the cache itself, as one shared head.

    q·(W_UK c) = (q W_UK)·c, so nothing is rebuilt per past token: best for decode. Weights are multiplied head by
    head with equal batch dimensions, the only batched form that every front end takes.
    """

    def __init__(self, heads: int, latent: int, nope: int, rope: int, value: int, layout: Layout = ONE_CARD) -> None:
        super().__init__(heads, latent, nope, rope, value, layout)
        by_head = (self.share, WHOLE, WHOLE)
        self.kv_b_proj_key = Parameter((self.heads, nope, latent), cut=cut_of((heads, nope, latent), *by_head))
        self.kv_b_proj_value = Parameter((self.heads, value, latent), cut=cut_of((heads, value, latent), *by_head))

    def forward(self, step: Step, q_nope: ir.Value, q_rope: ir.Value, cache: ir.Value, scale: float) -> ir.Value:
        """q_nope [B, H, S, nope], q_rope [B, H, S, rope], cache [B, 1, T, latent + rope] → [B * S, H * value]."""
        graph, op, width = step.graph, step.graph.op, self.latent + self.rope
        q = op.Reshape(op.Transpose(q_nope, perm=[1, 0, 2, 3]), graph.ints(self.heads, -1, self.nope))  # [H, B*S, nope]
        q = op.MatMul(q, self.kv_b_proj_key.value(graph, step.dtype))  # [H, B*S, latent]
        q = op.Reshape(op.Transpose(q, perm=[1, 0, 2]), step.shape("new", self.heads, self.latent))  # [B, S, H, latent]
        q = op.Concat(op.Transpose(q, perm=[0, 2, 1, 3]), q_rope, axis=-1)  # [B, H, S, latent + rope]
        mixed = ATTENTION(
            graph,
            q,
            cache,
            cache,
            step.mask(None),
            heads=self.heads,
            groups=1,
            key_dim=width,
            value_dim=width,
            scale=scale,
            one=step.one,
        )
        mixed, _ = op.Split(mixed, graph.ints(self.latent, self.rope), axis=-1, outputs=2)  # [B, H, S, latent]
        mixed = op.Reshape(
            op.Transpose(mixed, perm=[1, 3, 0, 2]), graph.ints(self.heads, self.latent, -1)
        )  # [H, latent, B*S]
        mixed = op.MatMul(self.kv_b_proj_value.value(graph, step.dtype), mixed)  # [H, value, B*S]
        return op.Reshape(op.Transpose(mixed, perm=[2, 0, 1]), graph.ints(-1, self.heads * self.value))


class ExpandedHeads(Heads):
    """Keys and values rebuilt from the latent for every past token, then plain attention: best for long prefill."""

    def __init__(self, heads: int, latent: int, nope: int, rope: int, value: int, layout: Layout = ONE_CARD) -> None:
        super().__init__(heads, latent, nope, rope, value, layout)
        rows = (self.share, WHOLE)
        self.kv_b_proj_key = Parameter((self.heads * nope, latent), cut=cut_of((heads * nope, latent), *rows))
        self.kv_b_proj_value = Parameter((self.heads * value, latent), cut=cut_of((heads * value, latent), *rows))

    def forward(self, step: Step, q_nope: ir.Value, q_rope: ir.Value, cache: ir.Value, scale: float) -> ir.Value:
        """q_nope [B, H, S, nope], q_rope [B, H, S, rope], cache [B, 1, T, latent + rope] → [B * S, H * value]."""
        graph, op = step.graph, step.graph.op
        latent, k_rope = op.Split(cache, graph.ints(self.latent, self.rope), axis=-1, outputs=2)
        latent = op.Reshape(latent, graph.ints(-1, self.latent))  # [B*T, latent]
        k_nope = op.Gemm(latent, self.kv_b_proj_key.value(graph, step.dtype), transB=1)  # [B*T, H*nope]
        values = op.Gemm(latent, self.kv_b_proj_value.value(graph, step.dtype), transB=1)  # [B*T, H*value]
        k_rope = op.Tile(k_rope, graph.ints(1, self.heads, 1, 1))  # [B, H, T, rope]
        keys = op.Concat(step.split_past_heads(k_nope, self.heads, self.nope), k_rope, axis=-1)
        values = step.split_past_heads(values, self.heads, self.value)  # [B, H, T, value]
        q = op.Concat(q_nope, q_rope, axis=-1)
        mixed = ATTENTION(
            graph,
            q,
            keys,
            values,
            step.mask(None),
            heads=self.heads,
            groups=self.heads,
            key_dim=self.nope + self.rope,
            value_dim=self.value,
            scale=scale,
            one=step.one,
        )
        return step.merge_heads(mixed, self.heads, self.value)


class LatentAttention(Module):
    """Projections, rotation and the latent cache; `mixer` is the form in which heads meet it."""

    def __init__(
        self,
        hidden_size: int,
        query: FullRankQuery | LowRankQuery,
        mixer: Heads,
        scale: float,
        interleaved: bool,
        bias: bool,
    ) -> None:
        self.query, self.mixer = query, mixer
        self.kv_a_proj_with_mqa = linear(hidden_size, mixer.latent + mixer.rope, bias)
        self.kv_a_layernorm = RMSNorm(mixer.latent, LATENT_EPSILON)
        self.o_proj = linear(mixer.all_heads * mixer.value, hidden_size, bias, columns=mixer.share)
        self.scale, self.interleaved = scale, int(interleaved)
        self.cache = (CacheEntry("latent", 1, mixer.latent + mixer.rope),)

    def forward(
        self, step: Step, x: ir.Value, rotation: Rotation, past: Sequence[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        """X [tokens, hidden_size] → the same shape, and the latent cache with the new tokens in it."""
        graph, op, sizes = step.graph, step.graph.op, self.mixer
        q = step.split_heads(self.query(step, x), sizes.heads, sizes.nope + sizes.rope)
        q_nope, q_rope = op.Split(q, graph.ints(sizes.nope, sizes.rope), axis=-1, outputs=2)
        q_rope = ROTARY_EMBEDDING(
            graph, q_rope, rotation.cos, rotation.sin, interleaved=self.interleaved, dim=sizes.rope
        )

        compressed = self.kv_a_proj_with_mqa(step, x)  # [tokens, latent + rope]
        latent, k_rope = op.Split(compressed, graph.ints(sizes.latent, sizes.rope), axis=-1, outputs=2)
        latent = step.split_heads(self.kv_a_layernorm(step, latent), 1, sizes.latent)  # [B, 1, S, latent]
        k_rope = step.split_heads(k_rope, 1, sizes.rope)
        k_rope = ROTARY_EMBEDDING(
            graph, k_rope, rotation.cos, rotation.sin, interleaved=self.interleaved, dim=sizes.rope
        )
        cache = step.update(past[0], op.Concat(latent, k_rope, axis=-1))  # [B, 1, T, latent + rope]
        return self.o_proj(step, self.mixer(step, q_nope, q_rope, cache, self.scale)), [cache]
