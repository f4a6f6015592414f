"""The words as values: ids go there and back, and numbers are ordered."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model import (
    BY_HAND,
    MAX_BOOKING_ID,
    MAX_EPOCH,
    MAX_SEQ,
    Number,
    booking_id,
    booking_partition,
)

epochs = st.integers(1, MAX_EPOCH)
seqs = st.integers(0, MAX_SEQ)
partitions = st.integers(0, BY_HAND - 1)


@given(epochs, seqs, partitions)
def test_ids_go_there_and_back(epoch: int, seq: int, partition: int) -> None:
    """An id names its number and its partition, and nothing else has it."""
    booking = booking_id(Number(epoch, seq), partition)
    assert Number.of_booking(booking) == (epoch, seq)
    assert booking_partition(booking) == partition


@given(epochs, seqs, partitions)
def test_ids_are_exact_in_json(epoch: int, seq: int, partition: int) -> None:
    """Also for a reader to whom every number is a double."""
    booking = booking_id(Number(epoch, seq), partition)
    assert 0 < booking <= MAX_BOOKING_ID
    assert int(float(json.dumps(booking))) == booking


@given(st.integers(1, MAX_SEQ), partitions)
def test_rows_by_hand_are_of_no_partition(seq: int, partition: int) -> None:
    """Epoch 0 is the hand's, whichever partition the event is of."""
    booking = booking_id(Number(0, seq), partition)
    assert booking == seq * 128 + 127
    assert booking_partition(booking) == BY_HAND
    assert Number.of_booking(booking) == (0, seq)


@given(epochs, seqs)
def test_numbers_go_there_and_back_as_text(epoch: int, seq: int) -> None:
    """As Redis writes stream ids, as text or as bytes."""
    number = Number(epoch, seq)
    assert Number.parse(str(number)) == number
    assert Number.parse(str(number).encode()) == number


@given(st.lists(st.tuples(epochs, seqs), min_size=2))
def test_order_is_that_of_ids(pairs: list[tuple[int, int]]) -> None:
    """Later in the log is larger, as a number and as an id."""
    numbers = [Number(*pair) for pair in pairs]
    assert sorted(numbers) == sorted(numbers, key=lambda number: booking_id(number, 5))


@pytest.mark.parametrize("text", ["", "3", "3-", "-8", "a-b", "3-8-1", "3-8|f"])
def test_what_is_no_number(text: str) -> None:
    """It is refused by the error of ``int``."""
    with pytest.raises(ValueError, match="int"):
        Number.parse(text)
