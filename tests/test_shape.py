"""--shape: what is read, which graphs follow from it, what is refused."""

from __future__ import annotations

import pytest

from porter.errors import TargetError
from porter.shape import Shape, Sizes


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("batch=1,sequence=128,context=4096", "batch=1,sequence=128,context=4096"),
        ("context=64", "batch=1,sequence=1,context=64"),
        (" context=64, sequence=16/8/16 ", "batch=1,sequence=8/16,context=64"),
    ],
)
def test_a_shape_has_one_spelling(text: str, spelled: str) -> None:
    assert str(Shape.parse(text)) == spelled
    assert Shape.parse(spelled) == Shape.parse(text)


def test_a_graph_for_prefill_and_one_for_decode() -> None:
    prefill, decode = Shape.parse("batch=2,sequence=16,context=64").phases(gears=False)
    assert (prefill.name, prefill.file, prefill.sizes) == ("prefill", "prefill.onnx", Sizes(2, 16, 64, 32))
    assert (decode.name, decode.file, decode.sizes) == ("decode", "decode.onnx", Sizes(2, 1, 64, 2))
    assert not prefill.gears


def test_a_sequence_of_one_needs_no_prefill() -> None:
    assert [phase.file for phase in Shape.parse("sequence=1,context=64").phases(gears=True)] == ["decode.onnx"]


def test_several_lengths_are_gears_of_one_graph_where_there_are_gears() -> None:
    prefill, decode = Shape.parse("sequence=1/8/16,context=32/64").phases(gears=True)
    assert prefill.sizes == Sizes(1, "sequence", "context", 16)
    assert [tuple(gear.values()) for gear in prefill.gears] == [(8, 32), (8, 64), (16, 32), (16, 64)]
    assert (decode.sizes, list(decode.gears)) == (Sizes(1, 1, "context", 1), [{"context": 32}, {"context": 64}])


def test_several_lengths_are_graphs_of_their_own_elsewhere() -> None:
    files = [phase.file for phase in Shape.parse("sequence=8/16,context=32/64").phases(gears=False)]
    assert files[:4] == ["prefill-8-32.onnx", "prefill-8-64.onnx", "prefill-16-32.onnx", "prefill-16-64.onnx"]
    assert files[4:] == ["decode-32.onnx", "decode-64.onnx"]


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("batch=1,sequence=8", "gives no context", "write --shape"),
        ("batch=1,contxt=8", "names 'contxt'", "did you mean 'context'?"),
        ("context=8,context=9", "names 'context' twice", "write --shape"),
        ("context=8x", "context is '8x'", "write --shape"),
        ("context=", "context is ''", "write --shape"),
        ("context=0", "context is 0", "between 1 and"),
        ("batch=1/2,context=8", "several batches", "one batch"),
        ("sequence=16,context=8/32", "sequence 16 does not fit into context 8", "every token of a call"),
    ],
)
def test_what_is_no_shape_is_refused(text: str, says: str, hint: str) -> None:
    with pytest.raises(TargetError, match=says) as refusal:
        Shape.parse(text)
    assert hint in refusal.value.hint
