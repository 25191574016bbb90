"""dots.llm1 (arXiv:2506.05767): Qwen3's attention, windows in the upper layers, DeepSeek-V3's experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from porter.blocks.attention import NormedGroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.families import _routed
from porter.families._common import WindowedConfig, decoder
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("dots1",)


@dataclass(frozen=True)
class Config(WindowedConfig, _routed.BiasedConfig):
    """transformers' Dots1Config."""

    aliases: ClassVar = {"num_local_experts": "n_routed_experts"}
    example: ClassVar = {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6}

    vocab_size: int = 152064
    hidden_size: int = 4608
    intermediate_size: int = 10944
    num_hidden_layers: int = 62
    num_key_value_heads: int | None = 32
    head_dim: int | None = None
    attention_bias: bool = False
    max_window_layers: int = 62
    moe_intermediate_size: int = 1408
    n_routed_experts: int = 0  # not given
    n_shared_experts: int = 0  # not given
    n_group: int | None = 1
    topk_group: int | None = 1
    norm_topk_prob: bool = False

    def check(self) -> None:
        self.at_most("n_shared_experts", 4096, "what can be")
        super().check()
        if self.head_dim is None:
            self.divides("num_attention_heads", "hidden_size")

    def windowed(self, layer: int) -> bool:
        return layer >= self.max_window_layers


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention with normalised heads; leading dense layers, then routed and shared experts."""
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            NormedGroupedQueryAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.key_value_heads,
                head_dim,
                epsilon=config.rms_norm_eps,
                qkv_bias=config.attention_bias,
                output_bias=config.attention_bias,
                window=config.window_of_layer(n),
                layout=layout,
            ),
            _routed.mlp(config, n, layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=head_dim, layout=layout)


weights = _routed.weights
drops = _routed.drops
