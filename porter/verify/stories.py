"""Which scenarios a port can be walked through: as far as the model's positions and its own cache reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from porter.errors import ParityError
from porter.manifest import Port
from porter.model import Model
from porter.verify.scenarios import PROMPT, SHORTEST, Scenario, placed, scenarios


def reach(port: Port, model: Model) -> int | None:
    """How many positions model and port have, None where there is no end."""
    rotation = model.network.model.rotary_emb
    positions = None if rotation.unbounded else model.config.max_position_embeddings
    return min((n for n in (positions, port.context) if n is not None), default=None)


def stories_of(port: Port, model: Model, tokens: int) -> tuple[list[Scenario], list[str]]:
    """What is walked through with so many tokens to decode; and notes on what a cache of fixed size ends before.

    Raises ParityError where the tokens do not fit.
    """
    limit, context, window = reach(port, model), port.context, model.network.window()
    if limit is not None and tokens > limit - SHORTEST:
        message = f"{tokens} tokens behind a prompt do not fit into the {limit} positions of model and port"
        raise ParityError(message, f"use --tokens {max(limit - SHORTEST, 1)} or fewer")
    rotation = model.network.model.rotary_emb
    boundaries = sorted({b for b in rotation.rope.boundaries() if b <= model.config.max_position_embeddings})
    reached = [b for b in boundaries if context is None or b <= context]
    notes = [f"the cache has {context} places: position {b} was not compared" for b in boundaries if b not in reached]
    left = window if window is None or context is None or window + PROMPT <= context else None
    if left != window:
        notes.append(f"the cache has {context} places: the window of {window} was not left behind")
    beyond = rotation.unbounded and (context is None or all(b + PROMPT <= context for b in reached))
    found = scenarios(model.config.vocab_size, reached, limit, left, tokens, beyond=beyond)
    if context is not None and window is not None:
        found = [placed(story) for story in found]  # a window counts places, and here they are positions
    return found, notes


def each_size(port: Port, model: Model, tokens: int) -> Iterator[Scenario]:
    """A prompt once more with each of several sizes that a port is made for."""
    sizes = sorted({(size.sequence, size.context) for size in port.fixed_sizes() if size.sequence > 1})
    for sequence, context in sizes if len(sizes) > 1 else []:
        limit = min(context, model.config.max_position_embeddings)
        story = scenarios(model.config.vocab_size, [], limit, None, min(tokens, limit - SHORTEST))[0]
        yield replace(story, name=f"{sequence} of {context}", size=(sequence, context))
