"""Binding is strict both ways, and a weight is the same bytes however it is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from porter import source as reading
from porter.blocks.module import Parameter
from porter.checkpoint import open_checkpoint, write_header
from porter.errors import FamilyError
from porter.layout import WHOLE, Cut, Share
from porter.source import Source
from porter.weights import Binding, Drop, Piece, Rule, bind, chunks, share

BF16 = np.dtype(ml_dtypes.bfloat16)
NAMES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", BF16: "BF16"}
STACK = Rule("*.experts", ((Piece("*.fused", (2, 2, 3)),), tuple(Piece(f"*.{e}.w", (2, 3)) for e in range(2))))
MIDDLE = Rule("*.keys", ((Piece("*.kv", (6, 2), 0, 2), Piece("*.kv", (6, 2), 3, 5)),))


def source(folder: Path, **tensors: np.ndarray) -> Source:
    """A checkpoint with these tensors; `__` in a name stands for a dot."""
    named = {name.replace("__", "."): array for name, array in tensors.items()}
    header = write_header([(n, NAMES[a.dtype], a.shape) for n, a in named.items()])
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(header + b"".join(a.tobytes() for a in named.values()))
    (folder / "config.json").write_text(json.dumps({"model_type": "x"}))
    return Source(open_checkpoint(folder))


def counted(*shape: int, dtype: np.dtype | type = np.float32) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def parameters(**shapes: tuple[int, ...]) -> list[Parameter]:
    return [Parameter(shape, name=name.replace("__", ".")) for name, shape in shapes.items()]


def content(binding: Binding, given: Source, dtype: type | np.dtype = np.float32) -> list[np.ndarray]:
    read = ([c.reshape(-1) for c in chunks(w, given, np.dtype(dtype))] for w in binding.weights)
    return [np.concatenate(parts) for parts in read]


def test_a_weight_of_its_own_name_needs_no_rule(tmp_path: Path) -> None:
    given = source(tmp_path, a=counted(3, 2), b=counted(4))
    binding = bind(parameters(b=(4,), a=(3, 2)), (), (), given)
    np.testing.assert_array_equal(content(binding, given)[1], np.arange(6))
    assert binding.dropped == {}


def test_one_tensor_per_expert_and_fused_ones_bind_to_the_same_bytes(tmp_path: Path) -> None:
    both = counted(2, 2, 3)
    apart = source(tmp_path / "apart", m__0__w=both[0], m__1__w=both[1])
    fused = source(tmp_path / "fused", m__fused=both)
    wanted = parameters(m__experts=(2, 2, 3))
    one, other = (content(bind(wanted, (STACK,), (), given), given)[0] for given in (apart, fused))
    np.testing.assert_array_equal(one, other)


def test_a_rule_takes_rows(tmp_path: Path) -> None:
    given = source(tmp_path, m__kv=counted(6, 2))
    (rows,) = content(bind(parameters(m__keys=(2, 2, 2)), (MIDDLE,), (), given), given)
    np.testing.assert_array_equal(rows, [0, 1, 2, 3, 6, 7, 8, 9])


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "lacks tensors 'm.0.w', 'm.1.w'"),
        ({"m__0__w": counted(2, 3)}, "lacks tensor 'm.1.w'"),
        (
            {"m__0__w": counted(2, 3), "m__1__w": counted(3, 2)},
            "'m.1.w' has shape [3, 2], but config.json asks for [2, 3]",
        ),
        ({"m__fused": counted(2, 3, 2)}, "'m.fused' has shape [2, 3, 2], but config.json asks for [2, 2, 3]"),
        ({"m__fused": counted(2, 2, 3), "m__2__w": counted(2, 3)}, "'m.2.w', which nothing in this architecture reads"),
    ],
)
def test_what_does_not_bind_is_named(tmp_path: Path, tensors: dict[str, np.ndarray], says: str) -> None:
    given = source(tmp_path, other=counted(1), **tensors)
    with pytest.raises(FamilyError) as refusal:
        bind(parameters(other=(1,), m__experts=(2, 2, 3)), (STACK,), (), given)
    assert says in refusal.value.message
    assert refusal.value.hint


def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match="'b0', 'b1', 'b2' and 7 more"):
        bind(parameters(**{f"b{n}": (1,) for n in range(10)}), (), (), source(tmp_path, a=counted(1)))


def test_what_is_left_out_has_a_reason(tmp_path: Path) -> None:
    given = source(tmp_path, a=counted(1), layers__9__x=counted(2))
    drops = (Drop(r"layers\.[0-8]\..*", "no"), Drop(r"layers\.9\..*", "not part of the model"))
    assert bind(parameters(a=(1,)), (), drops, given).dropped == {"layers.9.x": "not part of the model"}


@pytest.mark.parametrize("limit", [1, 8, 13, 10**6])
def test_a_weight_is_the_same_in_small_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    given = source(tmp_path, a=counted(7, 3, dtype=BF16))
    monkeypatch.setattr(reading, "CHUNK_BYTES", limit)
    (read,) = content(bind(parameters(a=(7, 3)), (), (), given), given)
    np.testing.assert_array_equal(read, np.arange(21))


@pytest.mark.parametrize("stored", [np.float32, np.float16, BF16])
@pytest.mark.parametrize("wanted", [np.float32, np.float16, BF16])
def test_a_cast_rounds_once(tmp_path: Path, stored: np.dtype, wanted: np.dtype) -> None:
    values = np.random.default_rng(0).standard_normal((4, 4)).astype(stored)
    given = source(tmp_path, a=values)
    (read,) = content(bind(parameters(a=(4, 4)), (), (), given), given, wanted)
    np.testing.assert_array_equal(read, values.astype(wanted).ravel())


@pytest.mark.parametrize("stored", [np.float32, BF16])
def test_a_value_that_does_not_fit_is_not_made_infinite(tmp_path: Path, stored: np.dtype) -> None:
    given = source(tmp_path, a=counted(2, 2), big=np.array([1.0, -(2.0**20)], stored))
    binding = bind(parameters(a=(2, 2), big=(2,)), (), (), given)
    with pytest.raises(FamilyError, match=r"'big' holds 1\.05e\+06, which float16 cannot") as refusal:
        content(binding, given, np.float16)
    assert "bfloat16" in refusal.value.hint


def test_an_infinity_that_was_there_stays(tmp_path: Path) -> None:
    given = source(tmp_path, a=np.array([np.inf, 1.0], np.float32))
    (read,) = content(bind(parameters(a=(2,)), (), (), given), given, np.float16)
    assert np.isinf(read[0])


def only_names(pieces: Sequence[Piece]) -> list[str]:
    return [p.source for p in pieces]


def test_a_star_stands_for_the_same_prefix_on_both_sides(tmp_path: Path) -> None:
    given = source(tmp_path, **{f"l__{n}__m__{e}__w": counted(2, 3) for n in range(2) for e in range(2)})
    binding = bind(parameters(l__0__m__experts=(2, 2, 3), l__1__m__experts=(2, 2, 3)), (STACK,), (), given)
    assert only_names(binding.weights[1].pieces) == ["l.1.m.0.w", "l.1.m.1.w"]


@pytest.mark.parametrize("fused", [False, True])
def test_a_card_reads_its_experts_and_no_others(fused: bool, tmp_path: Path) -> None:
    both = counted(2, 2, 3)
    given = source(tmp_path, m__fused=both) if fused else source(tmp_path, m__0__w=both[0], m__1__w=both[1])
    whole = bind(parameters(m__experts=(2, 2, 3)), [STACK], (), given)
    second = Parameter((1, 2, 3), name="m.experts", cut=Cut((2, 2, 3), (Share(2, 1), WHOLE, WHOLE)))
    binding = share(whole, [second])
    np.testing.assert_array_equal(content(binding, given)[0], both[1].reshape(-1))
    assert sum(piece.size for weight in binding.weights for piece in weight.pieces) == 6


@pytest.mark.parametrize("index", [0, 1])
def test_a_card_has_rows_or_columns_of_a_matrix(index: int, tmp_path: Path) -> None:
    whole, own = counted(4, 6), Share(2, index)
    given = source(tmp_path, rows=whole, columns=whole, bias=counted(4))
    binding = bind(parameters(rows=(4, 6), columns=(4, 6), bias=(4,)), (), (), given)
    wanted = [
        Parameter((2, 6), name="rows", cut=Cut((4, 6), (own, WHOLE))),
        Parameter((4, 3), name="columns", cut=Cut((4, 6), (WHOLE, own))),
        Parameter((2,), name="bias", cut=Cut((4,), (own,))),
    ]
    parts = content(share(binding, wanted), given)
    np.testing.assert_array_equal(parts[0].reshape(2, 6), whole[2 * index : 2 * index + 2])
    np.testing.assert_array_equal(parts[1].reshape(4, 3), whole[:, 3 * index : 3 * index + 3])
    np.testing.assert_array_equal(parts[2], np.arange(4)[2 * index : 2 * index + 2])


@pytest.mark.parametrize("fused", [False, True])
def test_a_card_may_have_a_part_of_every_expert(fused: bool, tmp_path: Path) -> None:
    """Two experts of gate and up [4, 3] each: the second half of either's rows; and the last column of all."""
    stacked = counted(2, 8, 3)
    tensors = {f"m__{e}__{n}": p for e in range(2) for n, p in zip("gu", np.split(stacked[e], 2), strict=True)}
    given = source(tmp_path, **({"m__fused": stacked} if fused else tensors))
    apart = tuple(Piece(f"*.{e}.{n}", (4, 3)) for e in range(2) for n in "gu")
    rule = Rule("*.experts", ((Piece("*.fused", (2, 8, 3)),), apart))
    whole = bind(parameters(m__experts=(2, 8, 3)), [rule], (), given)
    half = Parameter((2, 4, 3), name="m.experts", cut=Cut((2, 2, 4, 3), (WHOLE, WHOLE, Share(2, 1), WHOLE)))
    expected = stacked.reshape(2, 2, 4, 3)[:, :, 2:]
    np.testing.assert_array_equal(content(share(whole, [half]), given)[0], expected.reshape(-1))
    last = Parameter((2, 8, 1), name="m.experts", cut=Cut((2, 8, 3), (WHOLE, WHOLE, Share(3, 2))))
    np.testing.assert_array_equal(content(share(whole, [last]), given)[0], stacked[..., 2].reshape(-1))
