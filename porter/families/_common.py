"""What several families share: weights left out for the same reason, experts stacked the same way."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from porter.blocks.decoder import Decoder, DecoderLayer
from porter.errors import FamilyError
from porter.families._config import DecoderConfig
from porter.families._rope import rope_of
from porter.layout import ONE_CARD, Layout
from porter.weights import Drop, Piece, Rule

ROTARY = Drop(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", "recomputed from config.json")


def common_drops(config: DecoderConfig) -> tuple[Drop, ...]:
    """What any decoder may carry without needing it."""
    tied = (Drop(r"lm_head\.weight", "tied to model.embed_tokens.weight"),) if config.tie_word_embeddings else ()
    return (ROTARY, *tied)


def decoder(
    config: DecoderConfig, layers: Sequence[DecoderLayer], *, rotated: int, layout: Layout = ONE_CARD
) -> Decoder:
    """The model around the layers of this rank; RoPE turns `rotated` features of each head."""
    return Decoder(
        config.vocab_size,
        config.hidden_size,
        config.rms_norm_eps,
        list(layers),
        rope_of(config, rotated),
        tied=config.tie_word_embeddings,
        layout=layout,
        start=layout.layers(config.num_hidden_layers).start,
    )


def own_names(config: DecoderConfig) -> tuple[Rule, ...]:
    """No rules: every weight has its own name on disk."""
    return ()


def keys_and_values(config: DecoderConfig, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Transformers' cache as it is: [batch, heads, total, head_dim] twice."""
    return keys, values


@dataclasses.dataclass(frozen=True)
class WindowedConfig(DecoderConfig):
    """A sliding window, in every layer or in those that `layer_types` names."""

    sliding_window: int | None = 4096
    layer_types: list[str] | None = None

    def check(self) -> None:
        super().check()
        if self.layer_types is None:
            return
        kinds = ("full_attention", "sliding_attention")
        if len(self.layer_types) != self.num_hidden_layers or not set(self.layer_types) <= set(kinds):
            message = f"config.json: layer_types does not name a kind for each of {self.num_hidden_layers} layers"
            raise FamilyError(message, f"known kinds: {', '.join(kinds)}")
        if "sliding_attention" in self.layer_types and self.window is None:
            message = "config.json: layer_types names sliding_attention, but no sliding_window is given or used"
            raise FamilyError(message, "compare the config with the model's release")

    @property
    def window(self) -> int | None:
        """The sliding window that is in use."""
        return self.sliding_window

    @property
    def first_windowed(self) -> int:
        """The first layer with a window, where `layer_types` does not say."""
        return 0

    def window_of_layer(self, layer: int) -> int | None:
        """The sliding window of a layer, None where it sees everything."""
        kinds = self.layer_types
        within = layer >= self.first_windowed if kinds is None else kinds[layer] == "sliding_attention"
        return self.window if within else None


@dataclasses.dataclass(frozen=True)
class UpperWindowedConfig(WindowedConfig):
    """Qwen's windows: only with `use_sliding_window`, and from `max_window_layers` up."""

    use_sliding_window: bool = False
    max_window_layers: int = 28

    @property
    def window(self) -> int | None:
        return self.sliding_window if self.use_sliding_window else None

    @property
    def first_windowed(self) -> int:
        return self.max_window_layers


def stacked_experts(
    block: str, experts: int, hidden_size: int, intermediate_size: int, *, gate: str, up: str, down: str
) -> tuple[Rule, ...]:
    """Routed experts, from one tensor per expert or from the fused ones that transformers 5 holds in memory.

    `block` is the name of the layer's expert block on disk, `gate`, `up` and `down` the projections' names there.
    """
    fused_gate_up = Piece("*.mlp.experts.gate_up_proj", (experts, 2 * intermediate_size, hidden_size))
    fused_down = Piece("*.mlp.experts.down_proj", (experts, hidden_size, intermediate_size))
    inner = (intermediate_size, hidden_size)
    gate_up = tuple(Piece(f"*.{block}.experts.{e}.{n}.weight", inner) for e in range(experts) for n in (gate, up))
    downs = tuple(Piece(f"*.{block}.experts.{e}.{down}.weight", inner[::-1]) for e in range(experts))
    return (
        Rule("*.mlp.experts.gate_up_proj", ((fused_gate_up,), gate_up)),
        Rule("*.mlp.experts.down_proj", ((fused_down,), downs)),
    )
