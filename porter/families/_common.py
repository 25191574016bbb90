"""What several families share: weights left out for the same reason, experts stacked the same way."""

from __future__ import annotations

import dataclasses

import numpy as np

from porter.errors import FamilyError
from porter.families._config import DecoderConfig
from porter.weights import Drop, Piece, Rule

ROTARY = Drop(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", "recomputed from config.json")


def common_drops(config: DecoderConfig) -> tuple[Drop, ...]:
    """What any decoder may carry without needing it."""
    tied = (Drop(r"lm_head\.weight", "tied to model.embed_tokens.weight"),) if config.tie_word_embeddings else ()
    return (ROTARY, *tied)


def keys_and_values(config: DecoderConfig, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Transformers' cache as it is: [batch, heads, total, head_dim] twice."""
    return keys, values


@dataclasses.dataclass(frozen=True)
class WindowedConfig(DecoderConfig):
    """The fields by which Qwen's configs say which layers look through a window."""

    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28
    layer_types: list[str] | None = None

    def check(self) -> None:
        super().check()
        if self.layer_types is None:
            return
        kinds = ("full_attention", "sliding_attention")
        if len(self.layer_types) != self.num_hidden_layers or not set(self.layer_types) <= set(kinds):
            message = f"config.json: layer_types does not name a kind for each of num_hidden_layers = {self.num_hidden_layers}"
            raise FamilyError(message, f"known kinds: {', '.join(kinds)}")
        if "sliding_attention" in self.layer_types and not (self.use_sliding_window and self.sliding_window):
            message = (
                "config.json: layer_types names sliding_attention, but use_sliding_window or sliding_window is not set"
            )
            raise FamilyError(message, "compare the config with the model's release")

    def window_of_layer(self, layer: int) -> int | None:
        """The sliding window of a layer: by `layer_types` where given, else from `max_window_layers` up."""
        if self.layer_types is None:
            within = self.use_sliding_window and layer >= self.max_window_layers
        else:
            within = self.layer_types[layer] == "sliding_attention"
        return self.sliding_window if within else None


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
