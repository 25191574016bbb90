"""A checkpoint understood: its family, its config, its network, and every weight bound."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from porter.blocks.decoder import Decoder
from porter.checkpoint import Checkpoint, open_checkpoint
from porter.errors import FamilyError
from porter.families import Family, family_of
from porter.families._config import DecoderConfig
from porter.quantize import Quantization
from porter.source import Source
from porter.weights import Binding, bind


@dataclass(frozen=True)
class Model:
    """What is known of a checkpoint before a weight is read."""

    checkpoint: Checkpoint
    family: Family
    config: DecoderConfig
    network: Decoder
    quantization: Quantization | None  # of the weights that it fits
    source: Source
    binding: Binding


def understand(folder: Path, attention: str = "auto", quantization: Quantization | None = None) -> Model:
    """Opens a checkpoint and binds its network strictly; nothing is computed and no weight is read.

    Raises CheckpointError or FamilyError, which is also what a quantization meets that fits no weight.
    """
    checkpoint = open_checkpoint(folder)
    family = family_of(checkpoint.config)
    source = Source(checkpoint)
    config = _as_stored(family.read(checkpoint.config), source)
    network = family.build(config, attention)
    if quantization is not None:
        _quantize(network, quantization)
    binding = bind(network.named_parameters(), family.weights(config), family.drops(config), source)
    return Model(checkpoint, family, config, network, quantization, source, binding)


def _quantize(network: Decoder, form: Quantization) -> None:
    network.quantize(form)
    meant = network.quantizable()
    if not any(parameter.quantization for parameter in meant):
        widths = ", ".join(str(n) for n in sorted({parameter.shape[-1] for parameter in meant}))
        raise FamilyError(
            f"{form} fits no weight: their rows have {widths} numbers, of which no block of {form.block} makes a whole",
            "use a smaller block or --quantize int8",
        )


def _as_stored(config: DecoderConfig, source: Source) -> DecoderConfig:
    """Tied embeddings with an output projection of its own on disk: transformers ties them only when they are equal."""
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if not config.tie_word_embeddings or not {head, embedding} <= source.names():
        return config
    shapes = source.shape(head), source.shape(embedding)
    pairs = zip(_rows(source, head), _rows(source, embedding), strict=False)
    same = shapes[0] == shapes[1] and all(np.array_equal(a.view(np.uint8), b.view(np.uint8)) for a, b in pairs)
    return config if same else dataclasses.replace(config, tie_word_embeddings=False)


def _rows(source: Source, name: str) -> Iterator[np.ndarray]:
    return source.rows(source.checkpoint.read, name, 0, source.shape(name)[0], np.dtype(np.float32))
