"""What the families with norms that count from one share: their config, and what stands around their layers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from porter.blocks.decoder import Ends
from porter.blocks.norm import OffsetRMSNorm
from porter.families._common import WindowedConfig


@dataclasses.dataclass(frozen=True)
class OffsetConfig(WindowedConfig):
    """Heads with a scale of their own, soft caps, and an embedding multiplied by the root of its width."""

    activations = ("gelu_pytorch_tanh",)
    aliases: ClassVar = {"hidden_activation": "hidden_act"}

    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    hidden_act: str = "gelu_pytorch_tanh"
    tie_word_embeddings: bool = True
    head_dim: int = 256
    attention_bias: bool = False
    query_pre_attn_scalar: int = 256
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: float | None = None
    use_bidirectional_attention: bool | None = None

    def check(self) -> None:
        super().check()
        self.divides("num_attention_heads", "hidden_size")  # transformers insists, though nothing needs it
        self.only("use_bidirectional_attention", None, False)
        self.above_zero("final_logit_softcapping", "attn_logit_softcapping")

    @property
    def scale(self) -> float:
        """Of the scores."""
        return float(self.query_pre_attn_scalar**-0.5)

    @property
    def ends(self) -> Ends:
        """What stands around the layers."""
        return Ends(embedding=self.hidden_size**0.5, norm=OffsetRMSNorm, cap=self.final_logit_softcapping)
