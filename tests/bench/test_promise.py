"""A contender that does not keep its promise is found out."""

from __future__ import annotations

import pytest

from bench.speed.promise import Bounds, Broken, bounds, check
from bench.speed.scenario import CONFIRMED, HOT, Scenario
from bench.speed.stores import Sold
from tests.bench.made import outcome

MIXED = Scenario("mixed", "", (CONFIRMED,), kind="mixed", connections=10)
GUESTS = Scenario("duplicates", "", (CONFIRMED,), users=30)
LOOKS = Scenario("looks", "", (CONFIRMED,), kind="look")


def test_what_was_answered_is_sold() -> None:
    """What was under way when the client left, or was answered 503, may be sold as well."""
    answered = outcome(s201=[60, 30], s202=[5, 5], s409=[50, 0], s503=[0, 7])
    assert bounds(HOT, answered) == Bounds(100, 100 + 64 + 7)


def test_what_was_given_back_is_not() -> None:
    """200 gives back; 202 may be either."""
    answered = outcome(s201=[90], s200=[30], s202=[4])
    assert bounds(MIXED, answered) == Bounds(60 - 4 - 10, 60 + 4 + 10)


def test_who_has_a_seat_gets_no_other() -> None:
    """And who only looks gets none."""
    assert bounds(GUESTS, outcome(s409=[1000])) == Bounds(30, 30)
    assert bounds(LOOKS, outcome(s200=[1000])) == Bounds(0, 0)


@pytest.mark.parametrize(
    ("sold", "complaint"),
    [
        (Sold(100, 100, 1), "1 bookings more than seats"),
        (Sold(101, 100, 0), "101 bookings of 100 users"),
        (Sold(99, 99, 0), "99 bookings, but"),
        (Sold(165, 165, 0), "165 bookings, but"),
    ],
)
def test_a_broken_promise_ends_the_run(sold: Sold, complaint: str) -> None:
    """Oversold, a user with two seats, an answer without a row, a row that nobody asked for."""
    with pytest.raises(Broken, match=complaint):
        check(HOT, "somebody", outcome(s201=[100]), sold)


def test_a_kept_promise_does_not() -> None:
    """The two ends of what is allowed."""
    check(HOT, "somebody", outcome(s201=[100]), Sold(100, 100, 0))
    check(HOT, "somebody", outcome(s201=[100]), Sold(164, 164, 0))
