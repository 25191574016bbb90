"""SmolLM3: Llama with no rotation in every fourth layer; optionally windows there."""

from __future__ import annotations

from dataclasses import dataclass

from porter.blocks.attention import GroupedQueryAttention
from porter.blocks.attention_kinds import UnturnedGroupedQueryAttention
from porter.blocks.decoder import Decoder, DecoderLayer
from porter.blocks.mlp import GatedMLP
from porter.errors import FamilyError
from porter.families._common import WindowedConfig, decoder
from porter.layout import ONE_CARD, Layout

MODEL_TYPES = ("smollm3",)


@dataclass(frozen=True)
class Config(WindowedConfig):
    """transformers' SmolLM3Config."""

    default_theta = 2000000.0

    vocab_size: int = 128256
    hidden_size: int = 2048
    num_hidden_layers: int = 36
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 4
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = True
    sliding_window: int | None = None
    use_sliding_window: bool = False
    head_dim: int | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    no_rope_layers: list[int] | None = None
    no_rope_layer_interval: int = 4

    def check(self) -> None:
        super().check()
        if self.head_dim is None:
            self.divides("num_attention_heads", "hidden_size")
        if self.no_rope_layers is not None and len(self.no_rope_layers) < self.num_hidden_layers:
            message = f"config.json: no_rope_layers does not say of each of {self.num_hidden_layers} layers"
            raise FamilyError(message, "1 stands for a layer with a rotation, 0 for one without")

    @property
    def window(self) -> int | None:
        return self.sliding_window if self.use_sliding_window else None

    def windowed(self, layer: int) -> bool:
        return not self.turned(layer)

    def turned(self, layer: int) -> bool:
        """Whether a layer has a rotation."""
        if self.no_rope_layers is not None:
            return bool(self.no_rope_layers[layer])
        return (layer + 1) % self.no_rope_layer_interval != 0


def network(config: Config, layout: Layout = ONE_CARD) -> Decoder:
    """Grouped-query attention, turned or not, and a gated MLP in every layer."""
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    layers = [
        DecoderLayer(
            config.hidden_size,
            config.rms_norm_eps,
            (GroupedQueryAttention if config.turned(n) else UnturnedGroupedQueryAttention)(
                config.hidden_size,
                config.num_attention_heads,
                config.key_value_heads,
                head_dim,
                qkv_bias=config.attention_bias,
                output_bias=config.attention_bias,
                window=config.window_of_layer(n),
                layout=layout,
            ),
            GatedMLP(config.hidden_size, config.intermediate_size, config.mlp_bias, layout=layout),
        )
        for n in layout.layers(config.num_hidden_layers)
    ]
    return decoder(config, layers, rotated=head_dim, layout=layout)
