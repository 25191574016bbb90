"""Who stands where among the cards, and which part of a weight is whose."""

from __future__ import annotations

import numpy as np
import pytest

from porter.layout import ONE_CARD, WHOLE, Cut, Indivisible, Layout, Share, cut_of


def test_a_rank_is_a_place_in_its_groups() -> None:
    """Twelve cards: two stages of three times two."""
    eleven = Layout(tp=2, ep=3, pp=2, rank=11)
    assert (eleven.cards, eleven.stage, eleven.first, eleven.last) == (12, 1, False, True)
    assert (eleven.group("tp"), eleven.group("ep")) == ((10, 11), (7, 9, 11))
    assert eleven.group("stage") == (6, 7, 8, 9, 10, 11)
    assert [rank.rank for rank in eleven.ranks() if rank.first] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["tp", "ep", "stage"])
def test_groups_are_the_same_for_all_their_cards(name: str) -> None:
    for rank in Layout(tp=2, ep=2, pp=2).ranks():
        group = rank.group(name)
        assert rank.rank in group
        assert all(other.group(name) == group for other in rank.ranks() if other.rank in group)


def test_layers_go_to_stages_as_evenly_as_can_be() -> None:
    assert [list(rank.layers(7)) for rank in Layout(pp=3).ranks()] == [[0, 1, 2], [3, 4], [5, 6]]
    assert list(ONE_CARD.layers(7)) == [*range(7)]
    with pytest.raises(Indivisible, match="2 layers are too few for --pp 3"):
        Layout(pp=3).layers(2)


def test_what_there_is_too_little_of_several_cards_have() -> None:
    """Two key-value heads on four cards; three on four would be a head and a third."""
    shares = [rank.shared(2, "key-value heads") for rank in Layout(tp=4).ranks()]
    assert shares == [Share(2, 0), Share(2, 0), Share(2, 1), Share(2, 1)]
    with pytest.raises(Indivisible, match="3 key-value heads are not divided by --tp 4"):
        Layout(tp=4).shared(3, "key-value heads")
    with pytest.raises(Indivisible, match="9 experts are not divided by --ep 2"):
        Layout(ep=2).experts(9)


@pytest.mark.parametrize(
    ("whole", "shares"),
    [
        ((6,), (Share(3, 1),)),
        ((6, 4), (Share(2, 1), WHOLE)),
        ((6, 4), (WHOLE, Share(2, 0))),
        ((4, 3, 5), (Share(2, 1), WHOLE, WHOLE)),
        ((4, 2, 6, 5), (Share(2, 0), WHOLE, Share(3, 2), WHOLE)),
        ((4, 5, 6), (Share(4, 3), WHOLE, Share(2, 1))),
    ],
)
def test_a_cut_is_the_rows_and_columns_of_a_part(whole: tuple[int, ...], shares: tuple[Share, ...]) -> None:
    numbers = np.arange(np.prod(whole)).reshape(whole)
    part = numbers[tuple(slice(*share.span(size)) for share, size in zip(shares, whole, strict=True))]
    cut = Cut(whole, shares)
    rows = numbers.reshape(-1, cut.width)
    picked = np.concatenate([rows[start:stop] for start, stop in cut.rows()])
    columns = picked if cut.columns is None else picked[:, slice(*cut.columns)]
    np.testing.assert_array_equal(columns.reshape(-1), part.reshape(-1))
    assert cut_of(whole, *shares) == cut


def test_nothing_is_cut_on_one_card() -> None:
    assert cut_of((4, 3), WHOLE, WHOLE) is None
