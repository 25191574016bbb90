"""What the original has at a place of a port's graph, in the layout that it has there."""

from __future__ import annotations

import numpy as np

from porter.verify.inner import Moment
from porter.verify.pieces import Piece
from porter.verify.semantics import ToEntries
from porter.verify.taps import Tap


def has_counterpart(tap: Tap, moment: Moment) -> bool:
    """Whether the original computed something there that can be compared."""
    if tap.kind in ("cache", "entry"):
        return tap.layer in moment.trace.cache
    if tap.kind == "choice":
        return tap.layer in moment.trace.routes
    array = moment.array(tap.source) if tap.source else None
    if array is None or tap.kind == "mask":
        return array is not None and array.ndim == 4
    batch, new = moment.trace.logits.shape[:2]
    whole = array.shape[:2] == (batch, new)
    if tap.kind == "rotation":
        return whole and tap.width is not None and array.shape[-1] in (tap.width, 2 * tap.width)
    if (tap.rank == 4) != (array.ndim == 4) or tap.width not in (None, array.shape[-1]):
        return False
    return whole if array.ndim == 4 else array.size == batch * new * array.shape[-1]


def laid_out(tap: Tap, piece: Piece, moment: Moment, to_entries: ToEntries) -> np.ndarray:
    """The value of the original at this tap, for the tokens and places of a piece: the shape that the port has."""
    if tap.kind in ("cache", "entry"):
        assert tap.layer is not None
        entry = to_entries(*moment.trace.cache[tap.layer])[tap.entry]
        before = entry.shape[2] - moment.trace.logits.shape[1]  # places in front of the call's
        return piece.cached(entry, piece.places if tap.kind == "cache" else before + piece.columns)
    if tap.kind == "choice":
        assert tap.layer is not None
        array: np.ndarray | None = moment.trace.routes[tap.layer]
    else:
        array = moment.array(tap.source) if tap.source else None
    assert array is not None
    if tap.kind == "mask":
        return piece.visible(array)
    batch, new = moment.trace.logits.shape[:2]
    tokens = piece.tokens(array if array.ndim == 4 else array.reshape(batch, new, -1))  # [b, s, …]
    if tap.kind == "rotation":  # the original may have each angle twice
        return tokens[:, None, :, : tap.width]
    if tap.rank == 4:
        return tokens.transpose(0, 2, 1, 3)
    return tokens if tap.rank == 3 else tokens.reshape(-1, tokens.shape[-1])


def counted(tap: Tap, piece: Piece, tied: np.ndarray | None) -> np.ndarray:
    """Which numbers are to be compared: bool, of a shape that goes over the value's. No padding, and of choices none
    that could be either way, which `tied` [B, S] says of each token.
    """
    if tap.kind == "cache":
        return piece.kept[:, None, :, None]
    if tap.kind == "choice":
        assert tied is not None
        return (piece.real & ~piece.tokens(tied)).reshape(-1, 1)
    if tap.rank == 4:
        return piece.real[:, None, :, None]
    return piece.real[..., None] if tap.rank == 3 else piece.real.reshape(-1, 1)
