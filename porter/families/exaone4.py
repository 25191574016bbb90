"""EXAONE 4 (arXiv:2507.11407): norms behind attention and MLP, normed heads; windows, and no rotation beyond them."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention import NormedGroupedQueryAttention
from porter.blocks.attention_kinds import UnturnedNormedGroupedQueryAttention
from porter.blocks.decoder import Decoder
from porter.blocks.layers import NormedBehindLayer
from porter.blocks.mlp import GatedMLP
from porter.errors import FamilyError
from porter.families._common import WindowedConfig, decoder
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("exaone4",)


@dataclass(frozen=True)
class Config(WindowedConfig):
    """transformers' Exaone4Config."""

    vocab_size: int = 102400
    intermediate_size: int = 16384
    num_key_value_heads: int | None = 32
    rms_norm_eps: float = 1e-5
    head_dim: int | None = None
    sliding_window_pattern: str | int | None = 4

    def check(self) -> None:
        super().check()
        if self.head_dim is None:
            self.divides("num_attention_heads", "hidden_size")
        if self.layer_types is None and self.window and not isinstance(self.sliding_window_pattern, int):
            message = f"config.json: sliding_window_pattern is {self.sliding_window_pattern!r} without layer_types"
            raise FamilyError(message, "give the kind of each layer as layer_types, as the released models do")

    def windowed(self, layer: int) -> bool:
        pattern = self.sliding_window_pattern
        return isinstance(pattern, int) and (layer + 1) % pattern != 0

    def turned(self, layer: int) -> bool:
        """Whether a layer has a rotation: those within a window, or all where there is none."""
        return self.window is None or self.window_of_layer(layer) is not None


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention with normed heads, turned or not, and a gated MLP in every layer."""
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    layers = [
        NormedBehindLayer(
            config.hidden_size,
            config.rms_norm_eps,
            (NormedGroupedQueryAttention if config.turned(n) else UnturnedNormedGroupedQueryAttention)(
                config.hidden_size,
                config.num_attention_heads,
                config.key_value_heads,
                head_dim,
                epsilon=config.rms_norm_eps,
                window=config.window_of_layer(n),
                layout=layout,
            ),
            GatedMLP(config.hidden_size, config.intermediate_size, layout=layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=head_dim, layout=layout)
