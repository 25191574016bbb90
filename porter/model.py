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
from porter.layout import Indivisible, Layout
from porter.places import Places, arrange, arranged
from porter.quantize import Quantization
from porter.source import Source
from porter.weights import Binding, bind, share

LOOK_FURTHER = 64  # cards beyond twice as many as were asked for


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
    places: Places | None = None  # of experts, where they are not in the order of their numbers


def understand(
    folder: Path,
    attention: str = "auto",
    quantization: Quantization | None = None,
    places: Places | None = None,
) -> Model:
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
    if places is not None:
        arrange(network, places)
        binding = arranged(binding, network)
    return Model(checkpoint, family, config, network, quantization, source, binding, places)


def shared_out(model: Model, attention: str, layout: Layout) -> tuple[Model, ...]:
    """The model of each of several cards, in order: its share of the network, and of the bytes.

    Raises Indivisible where they do not divide its sizes, saying which numbers do, and FamilyError where a weight
    cannot be cut.
    """
    if layout.ep > 1 and not any(hasattr(layer.mlp, "experts") for layer in model.network.model.layers):
        raise Indivisible(
            f"{model.config.model_type} has no experts to divide over --ep {layout.ep}", "use --tp or --pp"
        )
    try:
        networks = [model.family.build(model.config, attention, rank) for rank in layout.ranks()]
    except Indivisible as error:
        raise Indivisible(error.message, _next_sizes(model, attention, layout)) from None
    if model.quantization is not None:
        for network in networks:
            _quantize(network, model.quantization)
    if model.places is not None:
        for network in networks:
            arrange(network, model.places)
    bindings = (share(model.binding, network.named_parameters()) for network in networks)
    return tuple(dataclasses.replace(model, network=n, binding=b) for n, b in zip(networks, bindings, strict=True))


def _next_sizes(model: Model, attention: str, layout: Layout) -> str:
    """For each option that does not fit, the nearest numbers of cards below and above that do."""
    found = []
    for name in ("tp", "ep", "pp"):
        asked = getattr(layout, name)
        if not _divides(model, attention, Layout(**{name: asked})):
            good = [n for n in range(1, 2 * asked + LOOK_FURTHER) if _divides(model, attention, Layout(**{name: n}))]
            near = [max(n for n in good if n < asked), *[n for n in good if n > asked][:1]]
            found.append(f"--{name} {' or '.join(map(str, near))}")
    return f"these do: {', '.join(found)}"


def _divides(model: Model, attention: str, layout: Layout) -> bool:
    try:
        model.family.build(model.config, attention, layout)
    except Indivisible:
        return False
    return True


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
