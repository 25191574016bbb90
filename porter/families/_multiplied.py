"""What the families with multipliers share: of embedding, residual branches, scores and logits."""

from __future__ import annotations

import dataclasses

from porter.blocks.attention import GroupedQueryAttention
from porter.blocks.decoder import Ends
from porter.families._config import DecoderConfig
from porter.layout import Layout


@dataclasses.dataclass(frozen=True)
class MultipliedConfig(DecoderConfig):
    """The multipliers, and heads as Llama has them."""

    head_dim: int | None = None
    attention_bias: bool = False
    embedding_multiplier: float = 1.0
    logits_scaling: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float = 1.0

    def check(self) -> None:
        super().check()
        self.above_zero("logits_scaling")
        if self.head_dim is None:
            self.divides("num_attention_heads", "hidden_size")

    @property
    def width(self) -> int:
        """How wide a head is."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def ends(self) -> Ends:
        """The multipliers around the layers."""
        return Ends(embedding=self.embedding_multiplier, divisor=self.logits_scaling)


def attention(config: MultipliedConfig, layout: Layout) -> GroupedQueryAttention:
    """Grouped-query attention whose scores have a scale of their own."""
    return GroupedQueryAttention(
        config.hidden_size,
        config.num_attention_heads,
        config.key_value_heads,
        config.width,
        qkv_bias=config.attention_bias,
        output_bias=config.attention_bias,
        scale=config.attention_multiplier,
        layout=layout,
    )
