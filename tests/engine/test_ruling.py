"""The ruling: each item is decided in its order, and a batch equals its items one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model import Item, Number, Word, booking_id
from engine.ruling import Plain, Rejection, Ruling, Seats, plain, rule

P = 5


def _reserve(seq: int, user: str, event_id: int = 1) -> Item:
    return Item(Number(3, seq), "reserve", event_id, user, 0)


def _cancel(seq: int, user: str, booking: int, event_id: int = 1) -> Item:
    return Item(Number(3, seq), "cancel", event_id, user, 0, Number(3, booking))


def _id(seq: int) -> int:
    return booking_id(Number(3, seq), P)


def _rule(*items: Item, total: int = 9, held: dict[str, int] | None = None) -> Ruling:
    rows = {(1, user): _id(seq) for user, seq in (held or {}).items()}
    return rule(items, partition=P, seats={1: Seats(total, len(rows))}, held=rows)


def test_reserves_become_rows() -> None:
    """By the id that their number and partition make."""
    ann, bob = _reserve(1, "ann"), _reserve(2, "bob")
    assert _rule(ann, bob) == Ruling(inserted={_id(1): ann, _id(2): bob})


def test_first_come() -> None:
    """The last seat goes to the first item; the next is rejected."""
    ann, bob = _reserve(1, "ann"), _reserve(2, "bob")
    assert _rule(ann, bob, total=1) == Ruling(
        inserted={_id(1): ann}, rejected=[Rejection(bob, Word.SOLD_OUT)]
    )


def test_full_of_rows() -> None:
    """Rows in the ledger count, and so does a cut below zero."""
    bob = _reserve(2, "bob")
    for total in (0, 1):
        ruling = _rule(bob, total=total, held={"ann": 1})
        assert ruling.rejected == [Rejection(bob, Word.SOLD_OUT)]


def test_duplicate_of_a_row() -> None:
    """The rejection names the booking that stands in the way."""
    again = _reserve(8, "ann")
    assert _rule(again, held={"ann": 1}).rejected == [
        Rejection(again, Word.ALREADY_BOOKED, Number(3, 1))
    ]


def test_duplicate_in_a_batch() -> None:
    """So does a second reserve of the same user."""
    ann, again = _reserve(1, "ann"), _reserve(2, "ann")
    assert _rule(ann, again).rejected == [Rejection(again, Word.ALREADY_BOOKED, Number(3, 1))]


def test_duplicate_of_a_row_by_hand() -> None:
    """A hand's booking is of epoch 0."""
    item = _reserve(1, "ann")
    ruling = rule([item], partition=P, seats={1: Seats(9, 1)}, held={(1, "ann"): 7 * 128 + 127})
    assert ruling.rejected == [Rejection(item, Word.ALREADY_BOOKED, Number(0, 7))]


def test_event_that_is_gone() -> None:
    """An event that the ledger has not is a rejection, whoever asks."""
    item = _reserve(1, "ann", event_id=2)
    assert _rule(item).rejected == [Rejection(item, Word.EVENT_NOT_FOUND)]


def test_cancel_ends_a_row() -> None:
    """Its seat is free for the next item of the batch."""
    cancel, bob = _cancel(8, "ann", 1), _reserve(9, "bob")
    assert _rule(cancel, bob, total=1, held={"ann": 1}) == Ruling(
        ended={_id(1): cancel}, inserted={_id(9): bob}
    )


def test_cancel_and_rebook_in_one_batch() -> None:
    """What began and ended within the batch has passed; what began last stays."""
    first, cancel, second = _reserve(1, "ann"), _cancel(2, "ann", 1), _reserve(3, "ann")
    assert _rule(first, cancel, second, total=1) == Ruling(
        passed={_id(1): first}, inserted={_id(3): second}
    )


def test_cancel_of_another_booking() -> None:
    """An old number ends nothing, and neither does a booking that never came to be."""
    other, unknown = _cancel(9, "ann", 2), _cancel(10, "zoe", 1)
    ruling = _rule(other, unknown, held={"ann": 1})
    assert ruling == Ruling(void={_id(2): other, _id(1): unknown})


def test_cancel_of_what_was_rejected() -> None:
    """A reserve that found no seat has none to give back."""
    ann, cancel, bob = _reserve(1, "ann"), _cancel(2, "ann", 1), _reserve(3, "bob")
    ruling = _rule(ann, cancel, bob, total=0)
    assert [rejection.item for rejection in ruling.rejected] == [ann, bob]
    assert not ruling.inserted


def test_events_do_not_share_seats() -> None:
    """Each has its own."""
    items = [_reserve(1, "ann", 1), _reserve(2, "ann", 2), _reserve(3, "bob", 2)]
    ruling = rule(items, partition=P, seats={1: Seats(0, 0), 2: Seats(2, 0)}, held={})
    assert set(ruling.inserted) == {_id(2), _id(3)}


Ledger = dict[tuple[int, str], int]
Ended = dict[int, str]

moves = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "cancel"]),
        st.sampled_from([1, 2, 3]),
        st.sampled_from("abc"),
        st.integers(1, 12),
    ),
    max_size=14,
)


def _items(drawn: list[tuple[str, int, str, int]]) -> list[Item]:
    return [
        _reserve(seq, user, event_id)
        if kind == "reserve"
        else _cancel(seq, user, booking, event_id)
        for seq, (kind, event_id, user, booking) in enumerate(drawn, start=1)
    ]


def _apply(
    ledger: Ledger, ended: dict[int, str], totals: dict[int, int], items: list[Item]
) -> None:
    """What the drain does with a ruling, on a dict."""
    seats = {
        event_id: Seats(total, sum(event == event_id for event, _ in ledger))
        for event_id, total in totals.items()
    }
    ruling = rule(items, partition=P, seats=seats, held=dict(ledger))
    for place in [place for place, booking in ledger.items() if booking in ruling.ended]:
        del ledger[place]
    for booking, item in ruling.inserted.items():
        assert (item.event_id, item.user_id) not in ledger
        ledger[item.event_id, item.user_id] = booking
    ended.update(dict.fromkeys([*ruling.ended, *ruling.passed], "cancelled"))
    for item, word, _ in ruling.rejected:
        ended[booking_id(item.number, P)] = str(word)
    for event_id, total in totals.items():
        assert sum(event == event_id for event, _ in ledger) <= total


@given(moves, st.tuples(st.integers(0, 3), st.integers(0, 3)), st.integers(0, 14))
def test_batch_equals_its_items_one_by_one(
    drawn: list[tuple[str, int, str, int]], seats: tuple[int, int], cut: int
) -> None:
    """However a log is cut into batches, the ledger ends the same; event 3 does not exist."""
    items, totals = _items(drawn), {1: seats[0], 2: seats[1]}
    results = []
    for batches in ([items], [items[:cut], items[cut:]], [[item] for item in items]):
        ledger: Ledger = {}
        ended: Ended = {}
        for batch in batches:
            _apply(ledger, ended, totals, batch)
        results.append((ledger, ended))
    assert results[0] == results[1] == results[2]


# What takes no ruling


def test_plain_reserves_and_cancels() -> None:
    """Of bookings from before, and of the batch's own; a user may come back."""
    ann, bob, again = _reserve(11, "ann"), _reserve(12, "bob"), _reserve(15, "bob")
    cem, gone = _cancel(13, "cem", 4), _cancel(14, "bob", 12)
    assert plain([ann, bob, cem, gone, again], partition=P) == Plain(
        begun={_id(11): ann, _id(15): again}, ended={_id(4): cem}, passed={_id(12): bob}
    )


def test_back_after_a_cancel() -> None:
    """Who gives back what he had before may reserve again."""
    gone, again = _cancel(11, "ann", 4), _reserve(12, "ann")
    assert plain([gone, again], partition=P) == Plain({_id(12): again}, {_id(4): gone}, {})


@pytest.mark.parametrize(
    "items",
    [
        pytest.param([_reserve(11, "ann"), _reserve(12, "ann")], id="he holds a booking of it"),
        pytest.param([_reserve(11, "ann"), _cancel(12, "ann", 4)], id="of one from before, late"),
        pytest.param([_cancel(11, "ann", 4), _cancel(12, "ann", 5)], id="of two from before"),
        pytest.param(
            [_reserve(11, "ann"), _cancel(12, "ann", 11), _cancel(13, "ann", 11)], id="twice"
        ),
        pytest.param([Item(Number(3, 11), "poison", entry="{}")], id="poison"),
    ],
)
def test_what_takes_a_ruling(items: list[Item]) -> None:
    """The ledger may refuse a part of it."""
    assert plain(items, partition=P) is None
