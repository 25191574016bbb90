"""InternLM3 (arXiv:2403.17297): Llama with other names for its biases, and a dynamic rotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from porter.blocks.decoder import Decoder
from porter.families import llama
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("internlm3",)


@dataclass(frozen=True)
class Config(llama.Config):
    """transformers' InternLM3Config."""

    aliases: ClassVar = {"qkv_bias": "attention_bias", "bias": "mlp_bias"}

    vocab_size: int = 128512
    intermediate_size: int = 10240
    num_hidden_layers: int = 48
    num_key_value_heads: int | None = 2
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-5
    head_dim: int | None = 128

    def check(self) -> None:
        super().check()
        self.only("mlp_bias", self.attention_bias)  # with one and not the other there is nothing to compare with


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Llama's."""
    return llama.network(config, layout)
