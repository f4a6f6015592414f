"""The judge: each promise has rounds that keep it, and rounds that break it in every way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bench.drill import checker, linear, record
from bench.drill.checker import judge
from bench.drill.record import (
    BookingRow,
    Call,
    Drift,
    Dump,
    EndedRow,
    EventKeys,
    EventRow,
    Facts,
    Said,
    Seats,
)

EVENT, OTHER = 7, 8
A, B, C = 549755814017, 549755814145, 549755814273
OWNERS = {A: "ann", B: "bob", C: "cid"}
KEY_REUSED = "idempotency_key_reused"
STATES = {200: "confirmed", 201: "confirmed", 202: "pending"}
ENDS = {
    "cancelled": "booking_cancelled",
    "rejected": "booking_rejected",
    "dead": "booking_rejected",
    "": "booking_lost",
}


# A small language: calls, facts, and what is left in the end


def reserve(user: str, at: float, booking: int = 0, status: int = 201, **more: Any) -> Call:
    """Ask for a seat; the answer comes half a second later, unless ``end`` says when."""
    told = {"end": at + 0.5, "status": status, "answered": booking, "state": STATES.get(status, "")}
    about = {"client": 1, "kind": "reserve", "begin": at, "event": EVENT, "user": user}
    return Call(**{**about, **told, **more})


def refused(user: str, at: float, code: str = "sold_out", booking: int = 0, **more: Any) -> Call:
    """Ask for a seat and get none."""
    status = {"event_not_found": 404, KEY_REUSED: 422}.get(code, 409)
    return reserve(user, at, booking, status, code=code, **more)


def replayed_cancelled(user: str, at: float, booking: int, **more: Any) -> Call:
    """Ask again under a key whose booking was given back."""
    return reserve(user, at, booking, state="cancelled", **more)


def cancel(booking: int, at: float, status: int = 200, **more: Any) -> Call:
    """Give a seat back."""
    about = {"client": 2, "kind": "cancel", "begin": at, "end": at + 0.5, "booking": booking}
    return Call(**{**about, "status": status, **more})


def read(booking: int, at: float, status: int = 200, code: str = "", **more: Any) -> Call:
    """Read a booking."""
    about = {"client": 3, "kind": "read", "begin": at, "end": at + 0.1, "booking": booking}
    told = {"status": status, "code": code, "state": STATES.get(status, "")}
    return Call(**{**about, **told, **more})


def last(booking: int, status: int = 200, code: str = "", **more: Any) -> Call:
    """Read a booking when all is over."""
    return read(booking, 100, status, code, after=True, **more)


def nonsense(status: int) -> Call:
    """Send what no client should."""
    return Call(client=4, kind="malformed", begin=1, end=1.5, status=status)


def unanswered(call: Call) -> Call:
    """Its answer never came."""
    return replace(call, end=None, status=0, answered=0, state="", code="")


def facts(fewest: int = 2, most: int | None = None, **more: Any) -> Facts:
    """A round with one event, of two seats if nothing else is said."""
    seats = {EVENT: Seats(fewest, fewest if most is None else most)}
    return Facts(**{"seed": 1, "faults": [], "events": seats, **more})


def row(booking: int, outcome: str, user: str | None = None) -> EndedRow:
    """A row of what ended."""
    return EndedRow(booking, EVENT, user or OWNERS[booking], outcome, None)


def ended(*rows: EndedRow, **how: int) -> list[EndedRow]:
    """What ended: ``ended(cancelled=A)``."""
    return [*rows, *(row(booking, outcome) for outcome, booking in how.items())]


class Round:
    """A round, in which all that is not said otherwise is as it must be."""

    def __init__(
        self,
        *calls: Call,
        rows: dict[int, str] | None = None,
        ended: list[EndedRow] | None = None,
        given: Facts | None = None,
        final: list[Call] | None = None,
        **stores: Any,
    ) -> None:
        rows, ended = rows or {}, ended or []
        self.facts = given or facts()
        self.calls = [*calls, *(_finals(calls, rows, ended) if final is None else final)]
        users = {user: booking for booking, user in rows.items()}
        agreeing = {
            "events": [EventRow(EVENT, 2, len(rows))],
            "bookings": [BookingRow(booking, EVENT, user) for booking, user in rows.items()],
            "ended": ended,
            "redis": {EVENT: EventKeys(2, 2 - len(rows), users)},
        }
        self.dump = Dump(**{**agreeing, **stores})

    def sentences(self) -> list[str]:
        """What the judge says."""
        return [each.sentence for each in judge(self.calls, self.facts, self.dump)]


def broken(*calls: Call, **how: Any) -> set[int]:
    """The numbers of the promises that a round breaks."""
    made = Round(*calls, **how)
    return {each.invariant for each in judge(made.calls, made.facts, made.dump)}


def _finals(calls: tuple[Call, ...], rows: dict[int, str], ended: list[EndedRow]) -> list[Call]:
    """How every booking that anybody was told of must read in the end."""
    outcomes = {row.id: row.outcome for row in ended}
    return [
        last(booking) if booking in rows else last(booking, 410, ENDS[outcomes.get(booking, "")])
        for booking in sorted({call.answered for call in calls if call.answered})
    ]


def test_sound_round_breaks_nothing() -> None:
    """Grants, refusals, replays, a cancel repeated, answers lost: all as promised."""
    calls = [
        reserve("ann", 1, A, key="k"),
        reserve("ann", 2, A, key="k"),
        reserve("bob", 2, B, 202, key="b"),
        refused("cid", 3),
        refused("ann", 4, "already_booked", A),
        read(A, 4),
        unanswered(read(A, 4)),
        cancel(B, 5),
        cancel(B, 6, 202),
        read(B, 6, 410, "booking_cancelled"),
        replayed_cancelled("bob", 6, B, key="b"),
        refused("cid", 6, KEY_REUSED, key="b"),
        reserve("cid", 7, C),
        unanswered(reserve("dan", 7)),
        reserve("dan", 7, 0, 503, code="redis_unavailable"),
        refused("bob", 9),
        nonsense(400),
        unanswered(nonsense(0)),
        Call(client=5, kind="available", begin=9, end=9.1, status=200, event=EVENT, seats=0),
    ]
    assert broken(*calls, rows={A: "ann", C: "cid"}, ended=ended(cancelled=B)) == set()
    assert broken() == set()


# 1: seats


BOTH: dict[str, Any] = {"rows": {A: "ann", B: "bob"}}
PASSED_ON: dict[str, Any] = {"rows": {B: "bob"}, "ended": ended(cancelled=A)}


@pytest.mark.parametrize(
    ("calls", "left"),
    [
        pytest.param([reserve("ann", 1, A), reserve("bob", 2, B)], BOTH, id="both granted"),
        pytest.param(
            [reserve("ann", 1, A, 202), reserve("bob", 1, B, 202)], BOTH, id="both pending"
        ),
        pytest.param(
            [reserve("ann", 1, A), reserve("bob", 2, B), cancel(A, 2.6)],
            PASSED_ON,
            id="the cancel began too late",
        ),
        pytest.param(
            [
                unanswered(reserve("ann", 1)),
                refused("ann", 2, "already_booked", A),
                reserve("bob", 3, B),
            ],
            BOTH,
            id="the grant was not answered, and was seen",
        ),
        pytest.param(
            [
                reserve("ann", 1, A, key="k"),
                reserve("bob", 2, B),
                cancel(B, 4),
                reserve("ann", 5, A, key="k"),
            ],
            {"rows": {A: "ann"}, "ended": ended(cancelled=B)},
            id="one was answered twice",
        ),
    ],
)
def test_1_no_seat_is_sold_twice_at_once(calls: list[Call], left: dict[str, Any]) -> None:
    """Two certainly hold the only seat; with two seats all is well."""
    assert broken(*calls, **left, given=facts(1)) == {1}
    assert broken(*calls, **left, given=facts(1, 2)) == set()


@pytest.mark.parametrize(
    "given_back", [cancel(A, 2.5), cancel(A, 1.6, 202), unanswered(cancel(A, 2.4))]
)
def test_1_seat_passes_on_when_a_cancel_begins(given_back: Call) -> None:
    """From then on nobody knows."""
    calls = [reserve("ann", 1, A), given_back, reserve("bob", 2, B)]
    assert broken(*calls, **PASSED_ON, given=facts(1)) == set()


@pytest.mark.parametrize(
    ("gone", "more"),
    [
        pytest.param([], {"lossy": True}, id="lost"),
        pytest.param(ended(rejected=A), {"hands_in_ledger": True}, id="rejected"),
    ],
)
def test_1_what_came_to_nothing_does_not_count(gone: list[EndedRow], more: dict[str, Any]) -> None:
    """Lost, or refused by the ledger."""
    calls = [reserve("ann", 1, A, 202), reserve("bob", 2, B)]
    assert broken(*calls, rows={B: "bob"}, ended=gone, given=facts(1, **more)) == set()


@pytest.mark.parametrize("more", [{"touched": {(EVENT, "ann")}}, {"edited": {EVENT}}])
def test_1_what_hands_did_does_not_count(more: dict[str, Any]) -> None:
    """Who lost his row to a hand, or was put into Redis by one."""
    calls = [refused("ann", 1, "already_booked", A), reserve("bob", 2, B)]
    final = [last(A, 404), last(B)]
    assert broken(*calls, rows={B: "bob"}, final=final, given=facts(1, **more)) == set()


def test_1_says_when_and_who() -> None:
    """A reader finds the calls in the history."""
    calls = [reserve("ann", 1, A), reserve("bob", 2, B)]
    (sentence,) = Round(*calls, **BOTH, given=facts(1)).sentences()
    assert sentence == (
        "event 7: at 1.500 s 2 bookings were held, and it had 1 seats at most: "
        f"{A} of 'ann', line 1 (reserve {A}, 0.000 s to 0.500 s, 201 confirmed); "
        f"{B} of 'bob', line 2 (reserve {B}, 1.000 s to 1.500 s, 201 confirmed)"
    )


def test_1_names_the_first_of_many() -> None:
    """A sentence stays readable."""
    calls = [reserve(f"user-{n}", n, n) for n in range(1, 21)]
    rows = {n: f"user-{n}" for n in range(1, 21)}
    stores: dict[str, Any] = {"events": [EventRow(EVENT, 20, 20)], "redis": {}}
    (sentence,) = Round(*calls, rows=rows, given=facts(1), **stores).sentences()
    assert sentence.count("line ") == 12
    assert sentence.endswith("; and 8 more")


# 2: one booking per user


def test_2_a_user_does_not_hold_two_bookings() -> None:
    """As he was told; one after the other is well."""
    left = {"rows": {B: "ann"}, "ended": ended(cancelled=A)}
    twice = [reserve("ann", 1, A), reserve("ann", 2, B), cancel(A, 3)]
    assert broken(*twice, **left) == {2, 10}
    assert broken(reserve("ann", 1, A), cancel(A, 2), reserve("ann", 3, B), **left) == set()
    at_once = [reserve("ann", 1, A), reserve("ann", 2, B), cancel(B, 2.5)]
    assert broken(*at_once, rows={A: "ann"}, ended=ended(row(B, "cancelled", "ann"))) == {10}


def test_2_the_ledger_has_one_booking_a_user() -> None:
    """And of another event another."""
    assert broken(rows={A: "ann", B: "ann"}, redis={}) == {2}
    rows = [BookingRow(A, EVENT, "ann"), BookingRow(B, OTHER, "ann")]
    events = [EventRow(EVENT, 2, 1), EventRow(OTHER, 2, 1)]
    assert broken(bookings=rows, events=events, redis={}) == set()


@pytest.mark.parametrize(
    "left",
    [
        pytest.param({"ended": ended(row(A, "cancelled"), cancelled=A)}, id="ended twice"),
        pytest.param({"rows": {A: "ann"}, "ended": ended(dead=A)}, id="booked and ended"),
    ],
)
def test_2_an_id_is_in_the_ledger_once(left: dict[str, Any]) -> None:
    """Booked or ended, and not twice."""
    assert broken(**left, given=facts(poisoned=1)) == {2}


def test_2_an_id_is_answered_to_one_user() -> None:
    """A grant, a refusal, or the ledger names somebody else."""
    left = {"rows": {A: "ann"}}
    assert broken(reserve("ann", 1, A), reserve("bob", 2, A), **left) == {2}
    assert broken(reserve("ann", 1, A), refused("bob", 2, "already_booked", A), **left) == {2, 10}
    assert broken(reserve("ann", 1, A), reserve("ann", 2, A, event=OTHER), **left) == {2}
    assert broken(reserve("bob", 1, A, 202), **left) == {2, 3}
    cancelled = [reserve("bob", 1, A, 202), cancel(A, 2)]
    assert broken(*cancelled, ended=ended(cancelled=A)) == {2}


def test_2_a_person_may_give_a_row_to_another() -> None:
    """Who had it is named as touched."""
    given = facts(touched={(EVENT, "bob")})
    assert broken(reserve("bob", 1, A, 202), rows={A: "ann"}, given=given) == set()


def test_2_a_hand_may_write_any_number_into_redis() -> None:
    """Of an event whose keys were edited, a refusal alone proves no booking."""
    calls = [refused("bob", 2, "already_booked", B), refused("cid", 3, "already_booked", B)]
    assert broken(*calls, final=[last(B, 404)], given=facts(edited={EVENT})) == set()
    assert broken(*calls, final=[last(B, 404)], given=facts(edited={OTHER})) == {2, 4, 10}


# 3: what is confirmed stays


CONFIRMED = [
    pytest.param([reserve("ann", 1, A)], id="answered 201"),
    pytest.param([reserve("ann", 1, A, 202), read(A, 2)], id="read as confirmed"),
]


@pytest.mark.parametrize("calls", CONFIRMED)
def test_3_what_was_confirmed_survives_redis(calls: list[Call]) -> None:
    """It is in the ledger; pending ones may be lost."""
    assert broken(*calls, given=facts(lossy=True)) == {3}
    assert broken(*calls, rows={A: "ann"}, given=facts(lossy=True)) == set()
    pending = [reserve("ann", 1, A, 202), read(A, 2, state="pending")]
    assert broken(*pending, given=facts(lossy=True)) == set()


@pytest.mark.parametrize("calls", CONFIRMED)
def test_3_what_was_confirmed_and_cancelled_is_one_or_the_other(calls: list[Call]) -> None:
    """In the ledger as a booking or as cancelled; not rejected, not nowhere."""
    asked = [*calls, unanswered(cancel(A, 3))]
    lossy, hands = facts(lossy=True), facts(hands_in_ledger=True)
    assert broken(*asked, rows={A: "ann"}, given=lossy) == set()
    assert broken(*asked, ended=ended(cancelled=A), given=lossy) == set()
    assert broken(*asked, given=lossy) == {3}
    assert broken(*asked, ended=ended(rejected=A), given=hands) == {3}


def test_3_the_row_is_his() -> None:
    """The same id, event and user."""
    assert broken(reserve("bob", 1, A), rows={A: "ann"}) == {2, 3}
    asked = [reserve("bob", 1, A), cancel(A, 2)]
    assert broken(*asked, ended=ended(cancelled=A)) == {2, 3}


def test_3_what_people_take_away_is_theirs() -> None:
    """A row deleted by hand reads 404."""
    given = facts(hands_in_ledger=True, touched={(EVENT, "ann")})
    assert broken(reserve("ann", 1, A), final=[last(A, 404)], given=given) == set()


# 4: what is pending is accounted for


PENDING = reserve("ann", 1, A, 202)


def test_4_what_is_lost_was_lost_by_redis() -> None:
    """And it reads so, never 404."""
    assert broken(PENDING, given=facts(lossy=True)) == set()
    assert broken(PENDING) == {4, 10}
    assert broken(PENDING, final=[last(A, 404, "booking_not_found")]) == {4, 10}
    missing = [last(A, 404, "booking_not_found")]
    assert broken(PENDING, final=missing, given=facts(lossy=True)) == {4, 10}
    assert broken(PENDING, final=missing, given=facts(touched={(EVENT, "ann")})) == set()


@pytest.mark.parametrize("outcome", ["rejected", "dead"])
@pytest.mark.parametrize("excuse", [{"hands_in_ledger": True}, {"edited": {EVENT}}, {}])
def test_4_what_is_rejected_has_a_reason(outcome: str, excuse: dict[str, Any]) -> None:
    """People in the ledger, people in its event's keys, or poison."""
    gone = ended(row(A, outcome))
    poisoned = int(outcome == "dead")
    excused = bool(excuse) or bool(poisoned)
    given = facts(poisoned=poisoned, **excuse)
    assert broken(PENDING, ended=gone, given=given) == (set() if excused else {4, 10})
    assert broken(PENDING, ended=gone, given=facts(poisoned=1)) == set()
    assert {4, 10} <= broken(PENDING, ended=gone, given=facts(edited={OTHER}))


def test_4_what_is_cancelled_was_asked_for() -> None:
    """With or without an answer."""
    gone = ended(cancelled=A)
    assert broken(PENDING, unanswered(cancel(A, 2)), ended=gone) == set()
    assert broken(PENDING, cancel(A, 2), ended=gone) == set()
    assert broken(PENDING, ended=gone) == {4, 10}


@pytest.mark.parametrize(
    ("final", "left"),
    [
        pytest.param(last(A), {"ended": ended(cancelled=A)}, id="confirmed, and it is cancelled"),
        pytest.param(last(A), {"ended": ended(rejected=A)}, id="confirmed, and it is rejected"),
        pytest.param(last(A), {}, id="confirmed, and it is nowhere"),
        pytest.param(last(A, state="pending"), {"rows": {A: "ann"}}, id="still pending"),
        pytest.param(
            last(A, 410, "booking_lost"), {"rows": {A: "ann"}}, id="lost, and it is there"
        ),
        pytest.param(
            last(A, 410, "booking_cancelled"), {"rows": {A: "ann"}}, id="cancelled, and it is there"
        ),
        pytest.param(
            last(A, 410, "booking_rejected"),
            {"ended": ended(cancelled=A)},
            id="rejected, and it is cancelled",
        ),
        pytest.param(
            last(A, 410, "booking_lost"), {"ended": ended(cancelled=A)}, id="lost, not cancelled"
        ),
        pytest.param(last(A, 503), {"rows": {A: "ann"}}, id="not told"),
    ],
)
def test_4_what_is_read_in_the_end_is_what_the_ledger_has(
    final: Call, left: dict[str, Any]
) -> None:
    """Whatever excuse there may be."""
    given = facts(lossy=True, hands_in_ledger=True, edited={EVENT})
    calls = [PENDING, unanswered(cancel(A, 2))]
    assert broken(*calls, **left, given=given) == set()
    found = broken(*calls, final=[final], **left, given=given)
    assert 4 in found
    assert found <= {3, 4, 10}


def test_4_every_booking_is_read_in_the_end() -> None:
    """Else nobody can say what became of it; the last of several reads counts."""
    assert broken(PENDING, read(A, 2), rows={A: "ann"}, final=[]) == {4}
    tries = [unanswered(last(A)), last(A, 503)]
    later = [replace(each, begin=101) for each in tries]
    assert broken(PENDING, rows={A: "ann"}, final=[*tries, last(A), *later]) == set()
    assert broken(PENDING, rows={A: "ann"}, final=tries) == {4}


# 5: sold out


HELD = [reserve("ann", 1, A), reserve("bob", 1, B)]


def test_5_sold_out_when_all_seats_may_be_taken() -> None:
    """And not while one is certainly free."""
    assert broken(*HELD, refused("cid", 2), **BOTH) == set()
    assert broken(HELD[0], refused("cid", 2), rows={A: "ann"}) == {5}
    assert broken(refused("cid", 2)) == {5}
    assert broken(refused("cid", 2), given=facts(0, 2)) == set()


@pytest.mark.parametrize(
    ("given_back", "lossy", "free"),
    [
        (cancel(B, 2), False, True),
        (cancel(B, 2), True, True),
        (cancel(B, 2, 202), False, True),
        (cancel(B, 2, 202), True, False),
        (cancel(B, 2, 404), False, False),
        (unanswered(cancel(B, 2)), False, False),
        (cancel(B, 2, 503), False, False),
        (cancel(B, 2.5), False, False),
        (cancel(B, 4), False, False),
    ],
)
def test_5_a_cancel_frees_a_seat_when_its_answer_came(
    given_back: Call, *, lossy: bool, free: bool
) -> None:
    """200 for certain; 202 unless Redis may forget it; without an answer nobody knows."""
    calls = [*HELD, given_back, refused("cid", 3, end=4.2)]
    left = {"rows": {A: "ann"}, "ended": ended(cancelled=B)}
    assert (5 in broken(*calls, **left, given=facts(lossy=lossy))) == free


def test_5_seats_that_change_hands_are_counted_at_each_instant() -> None:
    """Two users, but never at once: of two seats one was free all the time."""
    calls = [reserve("ann", 1, A), cancel(A, 2), reserve("bob", 3, B)]
    assert broken(*calls, refused("cid", 1, end=9), **PASSED_ON) == {5}
    at_once = [reserve("ann", 1, A), cancel(A, 2), reserve("bob", 2.4, B)]
    assert broken(*at_once, refused("cid", 1, end=9), **PASSED_ON) == set()
    later = reserve("dan", 12, C)
    left = {"rows": {B: "bob", C: "dan"}, "ended": ended(cancelled=A)}
    assert broken(*calls, refused("cid", 1, end=9), later, **left) == {5}


def test_5_booking_anew_takes_a_seat_anew() -> None:
    """One user is one seat, however often he asks."""
    calls = [reserve("ann", 1, A), cancel(A, 2), reserve("ann", 3, B)]
    left = {"rows": {B: "ann"}, "ended": ended(cancelled=A)}
    assert broken(*calls, refused("cid", 5), **left, given=facts(1)) == set()
    assert broken(*calls, refused("cid", 5), **left, given=facts(2)) == {5}
    assert broken(*calls, refused("cid", 2.6, end=2.9), **left, given=facts(1)) == {5}
    twice = [reserve("ann", 1, A, key="k"), reserve("ann", 2, A, key="k")]
    assert broken(*twice, refused("cid", 3), rows={A: "ann"}) == {5}


def test_5_an_answer_that_was_lost_took_no_seat_before_it_was_asked_for() -> None:
    """Though nobody knows which call made the booking."""
    made = [unanswered(reserve("bob", 5)), refused("bob", 6, "already_booked", B)]
    left = {"rows": {B: "bob"}}
    assert broken(refused("cid", 1), *made, **left, given=facts(1)) == {5}
    assert broken(refused("cid", 5.1), *made, **left, given=facts(1)) == set()


@pytest.mark.parametrize(
    ("calls", "more", "left"),
    [
        pytest.param([unanswered(reserve("bob", 1))], {}, {}, id="an answer that was lost"),
        pytest.param([reserve("bob", 1, 0, 503)], {}, {}, id="an answer that says nothing"),
        pytest.param([], {"touched": {(EVENT, "bob")}}, {}, id="a row by hand"),
        pytest.param([], {"edited": {EVENT}}, {}, id="a hand in its keys"),
        pytest.param([], {}, {"rows": {A: "ann", B: "bob"}}, id="a row that nobody asked for"),
        pytest.param([], {}, {"ended": ended(row(B, "cancelled"))}, id="one that ended"),
        pytest.param(
            [],
            {"poisoned": 1},
            {"ended": [EndedRow(B, EVENT, None, "dead", None)]},
            id="a dead letter",
        ),
        pytest.param(
            [refused("bob", 1, "event_not_found")],
            {"hands_in_ledger": True, "touched": {(EVENT, "dan")}},
            {},
            id="one that the ledger refused",
        ),
        pytest.param(
            [reserve("bob", 1, B, 202)], {"lossy": True}, {}, id="one that was lost some time"
        ),
        pytest.param(
            [refused("bob", 3, "already_booked", B)],
            {"touched": {(OTHER, "bob")}},
            {"rows": {A: "ann", B: "bob"}},
            id="one that nobody knows who made",
        ),
    ],
)
def test_5_whoever_may_hold_a_seat_counts(
    calls: list[Call], more: dict[str, Any], left: dict[str, Any]
) -> None:
    """Only certainty accuses."""
    left = {"rows": {A: "ann"}, "redis": {}, **left}
    asked = [reserve("ann", 1, A), *calls, refused("cid", 2)]
    assert 5 not in broken(*asked, **left, given=facts(**more))


def test_5_a_master_of_before_may_be_sold_out() -> None:
    """While two Redis answer."""
    calls = [reserve("ann", 1, A), refused("cid", 2)]
    left = {"rows": {A: "ann"}}
    assert broken(*calls, **left, given=facts(split=[(0, 1.9), (2.5, 3)])) == set()
    assert broken(*calls, **left, given=facts(split=[(0, 1.9), (2.6, 3)])) == {5}
    assert broken(*calls, **left, given=facts(blind=[(0, 9)])) == {5}


def test_5_refusals_hold_no_seat() -> None:
    """Without people in the ledger, or where they changed nothing."""
    calls = [reserve("ann", 1, A), refused("bob", 1), refused("cid", 2)]
    left = {"rows": {A: "ann"}}
    assert broken(*calls, **left) == {5}
    assert broken(*calls, **left, given=facts(hands_in_ledger=True)) == {5}
    assert broken(*calls, **left, given=facts(2, 3, hands_in_ledger=True)) == set()


def test_5_a_replay_of_what_was_cancelled_holds_no_seat() -> None:
    """It says that the seat was given back."""
    calls = [reserve("ann", 1, A, key="k"), cancel(A, 2)]
    calls += [replayed_cancelled("ann", 4, A, key="k"), refused("bob", 4)]
    assert broken(*calls, ended=ended(cancelled=A), given=facts(1)) == {5}


def test_5_seats_of_another_event_are_not_taken_here() -> None:
    """Whatever happens there."""
    events = {EVENT: Seats(1, 1), OTHER: Seats(1, 1)}
    there = [unanswered(reserve("bob", 1, event=OTHER)), refused("dan", 2, event=OTHER)]
    given = facts(events=events, touched={(OTHER, "eve")})
    assert broken(*there, given=given) == set()
    assert broken(*there, refused("cid", 3), given=given) == {5}


# 6, 7, 8: both stores


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(EventRow(EVENT, 2, 2), id="too many are counted"),
        pytest.param(EventRow(EVENT, 2, 0), id="too few"),
        pytest.param(EventRow(EVENT, 0, 1), id="more than there are seats"),
        pytest.param(EventRow(OTHER, 2, 0), id="its event is not there"),
    ],
)
def test_6_the_ledger_counts_right(event: EventRow) -> None:
    """Its count is its rows, and its rows have seats."""
    assert broken(rows={A: "ann"}, events=[event], redis={}) == {6}
    assert broken(rows={A: "ann"}, events=[EventRow(EVENT, 1, 1)], redis={}) == set()


RELEASE = Drift(EVENT, "release", "ann", "1-3", None)
LEFT = Drift(EVENT, "left", None, "1", "2")
SAID = Said("drift", "worker-1", "{}", EVENT)


@pytest.mark.parametrize("found", [{"drift": [RELEASE]}, {"drift": [LEFT]}, {"said": [SAID]}])
def test_7_nothing_drifts_but_by_hand(found: dict[str, Any]) -> None:
    """Keys edited, or rows and seats of this event."""
    hand = {"hands_in_ledger": True}
    assert broken(given=facts(**found)) == {7}
    assert broken(given=facts(**found, edited={OTHER})) == {7}
    assert broken(given=facts(**found, edited={EVENT})) == set()
    assert broken(given=facts(**found, **hand)) == {7}
    assert broken(given=facts(2, 3, **found)) == {7}
    assert broken(given=facts(2, 3, **found, **hand)) == set()
    assert broken(given=facts(**found, **hand, touched={(EVENT, "bob")})) == set()
    assert broken(given=facts(**found, **hand, touched={(OTHER, "bob")})) == {7}


def test_7_a_touched_user_may_drift() -> None:
    """He, and not the others."""
    given = facts(drift=[RELEASE], touched={(EVENT, "ann")})
    assert broken(given=given) == set()
    assert broken(given=facts(drift=[RELEASE], touched={(EVENT, "bob")})) == {7}
    assert Round(given=facts(drift=[RELEASE])).sentences() == [
        "event 7, user 'ann': release, Redis says 1-3, the ledger None, before any repair"
    ]


def test_8_repair_leaves_nothing() -> None:
    """Whatever was done by hand."""
    excused = facts(left_over=[LEFT], edited={EVENT}, hands_in_ledger=True)
    assert broken(given=excused) == {8}


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(EventKeys(2, 2, {}), id="a user is missing"),
        pytest.param(EventKeys(2, 0, {"ann": A, "bob": B}), id="a user too many"),
        pytest.param(EventKeys(2, 1, {"ann": B}), id="another booking"),
        pytest.param(EventKeys(2, 1, {"bob": A}), id="another user"),
        pytest.param(EventKeys(2, 2, {"ann": A}), id="a seat too many"),
        pytest.param(EventKeys(3, 2, {"ann": A}), id="another total"),
    ],
)
def test_8_warm_events_are_the_ledgers(keys: EventKeys) -> None:
    """Users, bookings, seats; a cold event is not there to differ."""
    given = facts(edited={EVENT}, hands_in_ledger=True, touched={(EVENT, "ann")})
    assert broken(rows={A: "ann"}, redis={EVENT: keys}, given=given) == {8}
    assert broken(rows={A: "ann"}, redis={}) == set()


def test_8_no_event_is_in_redis_alone() -> None:
    """It was deleted, and is still sold."""
    assert broken(redis={EVENT: EventKeys(2, 2, {}), OTHER: EventKeys(2, 2, {})}) == {8}


# 9: what never happens


BACK = [
    pytest.param([read(A, 3)], id="read"),
    pytest.param([reserve("ann", 3, A, key="k")], id="replayed"),
    pytest.param([refused("ann", 3, "already_booked", A)], id="in the way"),
]


@pytest.mark.parametrize("back", BACK)
@pytest.mark.parametrize(("status", "lossy"), [(200, False), (200, True), (202, False)])
def test_9_cancelled_for_good(back: list[Call], status: int, *, lossy: bool) -> None:
    """200 for ever, 202 unless Redis forgets."""
    calls = [reserve("ann", 1, A, key="k"), cancel(A, 2, status), *back]
    assert broken(*calls, ended=ended(cancelled=A), given=facts(lossy=lossy)) == {9, 10}


@pytest.mark.parametrize("back", BACK)
@pytest.mark.parametrize(
    "given_back", [cancel(A, 2, 503), cancel(A, 2, 500), unanswered(cancel(A, 2))]
)
def test_9_cancelled_perhaps(back: list[Call], given_back: Call) -> None:
    """Without an answer nobody knows when, or whether."""
    calls = [reserve("ann", 1, A, key="k"), given_back, *back]
    given = facts(poisoned=1)
    assert broken(*calls, ended=ended(cancelled=A), given=given) == set()
    assert broken(*calls, rows={A: "ann"}, given=given) == set()


def test_9_a_loss_of_redis_undoes_a_cancel_of_its_own() -> None:
    """Then the booking is there again, as its owner is told."""
    calls = [reserve("ann", 1, A), cancel(A, 2, 202), read(A, 3)]
    assert broken(*calls, rows={A: "ann"}, given=facts(lossy=True)) == set()
    assert broken(*calls, rows={A: "ann"}) == {9, 10}
    for_ever = [reserve("ann", 1, A), cancel(A, 2), read(A, 3)]
    assert broken(*for_ever, rows={A: "ann"}, given=facts(lossy=True)) == {9, 10}
    touched = facts(touched={(EVENT, "ann")})
    assert broken(*calls, rows={A: "ann"}, given=touched) == set()


def test_9_while_redis_cannot_be_asked_a_booking_reads_as_the_ledger_has_it() -> None:
    """It may not have heard of a cancel that was answered 202; of one with 200 it has."""
    calls = [reserve("ann", 1, A), cancel(A, 2, 202), read(A, 3)]
    left = {"ended": ended(cancelled=A)}
    assert broken(*calls, **left, given=facts(blind=[(3.1, 4)])) == set()
    assert broken(*calls, **left, given=facts(blind=[(3.2, 4)])) == {9, 10}
    assert broken(*calls, **left, given=facts(blind=[(2, 3)])) == set()
    assert broken(*calls, **left, given=facts(blind=[(0, 2.9)])) == {9, 10}
    assert broken(*calls, **left, given=facts(split=[(0, 9)])) == {9, 10}
    known = [reserve("ann", 1, A), cancel(A, 2), read(A, 3)]
    assert broken(*known, **left, given=facts(blind=[(0, 9)])) == {9, 10}
    known.insert(1, cancel(A, 1.6, 202, end=1.9))
    known[2] = cancel(A, 2, end=3)
    assert broken(*known, **left, given=facts(blind=[(0, 9)])) == set()
    unasked = [reserve("ann", 1, A), cancel(A, 2), read(A, 3, 410, "booking_lost")]
    assert broken(*unasked, **left, given=facts(blind=[(0, 9)])) == {10}


def test_9_a_master_of_before_may_know_what_was_cancelled() -> None:
    """While two Redis answer, as a refusal; it sells it to nobody."""
    left = {"ended": ended(cancelled=A)}
    calls = [reserve("ann", 1, A, key="k"), cancel(A, 2), refused("ann", 3, "already_booked", A)]
    assert broken(*calls, **left, given=facts(split=[(3, 4)])) == set()
    assert broken(*calls, **left, given=facts(split=[(4, 5)])) == {9, 10}
    assert broken(*calls, **left, given=facts(blind=[(0, 9)])) == {9, 10}
    calls[-1] = reserve("ann", 3, A, key="k")
    assert broken(*calls, **left, given=facts(split=[(0, 9)])) == {9, 10}


def test_9_what_began_before_may_say_otherwise() -> None:
    """The cancel had not answered yet."""
    calls = [reserve("ann", 1, A), cancel(A, 2), read(A, 2.4, end=3)]
    assert broken(*calls, ended=ended(cancelled=A)) == set()


def test_9_cancelled_is_not_in_the_ledger() -> None:
    """Though nobody reads it so."""
    final = [last(A, 410, "booking_cancelled")]
    assert 9 in broken(reserve("ann", 1, A), cancel(A, 2), rows={A: "ann"}, final=final)


def test_9_dead_letters_are_poison() -> None:
    """As many as there was nonsense, as rows and in the logs."""
    said = Said("dead_letter", "worker-1", "{}", EVENT)
    two = [EndedRow(B, EVENT, None, "dead", None), EndedRow(C, None, None, "dead", None)]
    assert broken(given=facts(said=[said], poisoned=2)) == {9}
    assert broken(ended=two, given=facts(poisoned=1)) == {9}
    assert broken(ended=two, given=facts(poisoned=2)) == set()
    assert broken(ended=two[:1], given=facts(said=[said, said], poisoned=1)) == {9}
    assert broken(ended=two, given=facts(said=[said, said], poisoned=2)) == set()


@pytest.mark.parametrize("status", [200, 202, 302, 500, 503])
def test_9_nonsense_is_refused(status: int) -> None:
    """With a 4xx; or nobody answered."""
    assert broken(nonsense(status), given=facts(poisoned=1)) == {9}
    assert broken(nonsense(413), nonsense(404), unanswered(nonsense(0))) == set()


@pytest.mark.parametrize(
    "call",
    [reserve("ann", 1, 0, 500), cancel(A, 1, 500), read(A, 1, 500)],
    ids=lambda call: call.kind,
)
def test_9_no_defects(call: Call) -> None:
    """500 is one, unless there is poison; 503 is none; what else there is of 5xx is one."""
    assert broken(call) == {9}
    assert broken(call, given=facts(poisoned=1)) == set()
    assert broken(replace(call, status=503)) == set()
    assert broken(replace(call, status=504), given=facts(poisoned=1)) == {9}
    assert broken(replace(call, status=502), given=facts(poisoned=1)) >= {9}


def test_9_no_traceback() -> None:
    """But the one that a 500 leaves, where there is poison."""
    crash = Said("traceback", "worker-1", '{"event": "road_failed", "exception": "Traceback"}')
    failed = Said("traceback", "api-1", '{"event": "request_failed", "exception": "Traceback"}')
    assert broken(given=facts(said=[crash])) == {9}
    assert broken(given=facts(said=[crash], poisoned=1)) == {9}
    assert broken(given=facts(said=[failed])) == {9}
    assert broken(given=facts(said=[failed], poisoned=1)) == set()


# 10: an order that explains what each user was told


IN_ORDER = [
    pytest.param([refused("ann", 2)], id="sold out while he holds one"),
    pytest.param([reserve("ann", 2, A)], id="made twice, and no key"),
    pytest.param([reserve("ann", 2, A, key="l")], id="replayed to another key"),
    pytest.param([replayed_cancelled("ann", 2, A, key="k")], id="replayed as cancelled"),
    pytest.param([refused("ann", 2, "already_booked", A, key="k")], id="in his own key's way"),
    pytest.param([cancel(A, 2, 404)], id="not to be cancelled"),
    pytest.param([read(A, 2, 404, "booking_not_found")], id="not to be read"),
    pytest.param([read(A, 2, 410, "booking_cancelled")], id="cancelled by nobody"),
    pytest.param([read(A, 2, 410, "booking_lost")], id="lost, and there again"),
    pytest.param([read(A, 2, 410, "booking_rejected")], id="rejected, and there again"),
    pytest.param([refused("ann", 2, "event_not_found")], id="there is such an event"),
    pytest.param([reserve("ann", 2, A, 200, key="k")], id="no such status"),
    pytest.param([refused("ann", 2, "")], id="no such refusal"),
    pytest.param([read(A, 2, 400, "invalid_id")], id="a good id"),
    pytest.param(
        [reserve("ann", 2, B, 202), read(B, 2, 410, "booking_lost")], id="another in its place"
    ),
]


@pytest.mark.parametrize("calls", IN_ORDER)
def test_10_what_a_user_is_told_makes_sense(calls: list[Call]) -> None:
    """He holds A from beginning to end."""
    events = facts(1, 1)
    told = [reserve("ann", 1, A, key="k"), *calls]
    final = [last(A)]
    assert 10 in broken(*told, rows={A: "ann"}, final=final, given=events)
    touched = facts(1, 1, touched={(EVENT, "ann")})
    assert 10 not in broken(*told, rows={A: "ann"}, final=final, given=touched)


@pytest.mark.parametrize(
    ("calls", "more"),
    [
        pytest.param([reserve("ann", 2, A, key="k")], {}, id="replayed"),
        pytest.param(
            [refused("ann", 2, "already_booked", A, key="k")], {"lossy": True}, id="key forgotten"
        ),
        pytest.param([refused("ann", 0.9)], {}, id="sold out, it may be before"),
        pytest.param([read(A, 0.9, 404)], {}, id="read, it may be before"),
        pytest.param([reserve("ann", 2, 0, 429)], {}, id="too many requests"),
        pytest.param([reserve("ann", 2, 0, 408)], {}, id="too slow"),
        pytest.param([read(C, 2, 404)], {}, id="of a booking that nobody was told of"),
        pytest.param([refused("ann", 2, "event_not_found")], {"hands_in_ledger": True}, id="hands"),
        pytest.param([refused("ann", 2)], {"edited": {EVENT}}, id="taken out of Redis by hand"),
        pytest.param([refused("ann", 2, event=9, code="event_not_found")], {}, id="no such event"),
    ],
)
def test_10_what_has_an_explanation_passes(calls: list[Call], more: dict[str, Any]) -> None:
    """He holds A from beginning to end, and there is one seat."""
    told = [reserve("ann", 1, A, key="k"), *calls]
    given = facts(1, **more)
    assert broken(*told, rows={A: "ann"}, final=[last(A)], given=given) == set()


def test_10_what_the_ledger_refused_with_a_reason_is_left_out() -> None:
    """Nobody knows when its seat went back."""
    told = [
        reserve("ann", 1, A, 202),
        reserve("ann", 2, B, 202),
        refused("ann", 3, "already_booked", A),
        cancel(A, 4, 404),
        read(A, 5),
    ]
    left = {"rows": {B: "ann"}, "ended": ended(rejected=A)}
    assert broken(*told, **left, given=facts(edited={EVENT})) == {3}
    told[-1] = read(A, 5, state="pending")
    assert broken(*told, **left, given=facts(edited={EVENT})) == set()
    assert broken(*told, **left) == {4, 10}


def test_10_what_a_loss_explains_passes_only_where_there_was_one() -> None:
    """A pending booking vanishes, another is made."""
    told = [reserve("ann", 1, A, 202), reserve("ann", 2, B), read(A, 3, 410, "booking_lost")]
    assert broken(*told, rows={B: "ann"}, given=facts(lossy=True)) == set()
    assert broken(*told, rows={B: "ann"}) == {4, 10}
    assert broken(*told[:2], cancel(A, 3, 404), rows={B: "ann"}, given=facts(lossy=True)) == set()
    assert broken(*told[:2], read(A, 3, 404), rows={B: "ann"}, given=facts(lossy=True)) == {10}


def test_10_only_a_reservation_makes_a_booking() -> None:
    """One without an answer does, with its key; a reading without an answer does not."""
    seen = refused("ann", 2, "already_booked", A)
    left = {"rows": {A: "ann"}}
    assert broken(unanswered(reserve("ann", 1)), seen, **left) == set()
    assert broken(unanswered(read(A, 1)), seen, **left) == {10}
    keyed = unanswered(reserve("ann", 1, key="k"))
    assert broken(keyed, seen, reserve("ann", 3, A, key="k"), **left) == set()
    assert broken(keyed, seen, reserve("ann", 3, A, key="l"), **left) == {10}


@pytest.mark.parametrize(
    "call",
    [
        refused("ann", 1, "event_not_found"),
        refused("ann", 1, "another"),
        reserve("ann", 1, 0, 200),
        reserve("ann", 1, 0, 201),
        reserve("ann", 1, 0, 400, code="invalid_body"),
    ],
    ids=lambda call: f"{call.status} {call.code or call.state}",
)
def test_10_no_such_answer_is_expected(call: Call) -> None:
    """Of a user who holds nothing; of an event that the drill did not open anything may be said."""
    assert broken(call) == {10}
    assert broken(refused("ann", 1, "event_not_found", event=OTHER)) == set()


def test_10_what_one_of_two_masters_sold_and_lost_needs_no_explanation() -> None:
    """The other knew nothing of it; what was kept is explained all the same."""
    told = [reserve("ann", 1, A), reserve("ann", 2, B, 202), read(A, 3)]
    left = {"rows": {A: "ann"}}
    assert broken(*told, **left, given=facts(lossy=True, split=[(2, 3)])) == set()
    assert broken(*told, **left, given=facts(lossy=True, split=[(3, 4)])) == {10}
    both = {"rows": {A: "ann", B: "ann"}, "redis": {}}
    assert broken(*told, **both, given=facts(lossy=True, split=[(0, 9)])) == {2, 10}


def test_10_what_cannot_be_judged_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing passes in silence."""
    monkeypatch.setattr(linear, "MAX_NODES", 1)
    told = [reserve("ann", n, n, 202, end=50) for n in range(1, 6)]
    cancels = [unanswered(cancel(n, n)) for n in range(1, 6)]
    sentences = Round(*told, *cancels, ended=[row_of(n) for n in range(1, 6)]).sentences()
    assert [each for each in sentences if "could not be judged, 1 ways were tried" in each]


def row_of(booking: int) -> EndedRow:
    """A cancelled booking of ann's."""
    return EndedRow(booking, EVENT, "ann", "cancelled", None)


@pytest.mark.parametrize(
    ("status", "state", "fine"),
    [
        (201, "confirmed", True),
        (202, "pending", True),
        (201, "pending", False),
        (202, "confirmed", False),
        (202, "cancelled", False),
        (202, "lost", False),
    ],
)
def test_10_a_booking_is_answered_as_what_it_is(status: int, state: str, *, fine: bool) -> None:
    """201 confirmed or 202 pending, a replay as well."""
    told = [reserve("ann", 1, A, key="k"), reserve("ann", 2, A, status, key="k", state=state)]
    assert broken(*told, rows={A: "ann"}) == (set() if fine else {10})


def test_10_a_key_makes_one_booking() -> None:
    """Also after a cancel; unless Redis forgets what it has made."""
    told = [reserve("ann", 1, A, key="k"), cancel(A, 2)]
    left = {"rows": {B: "ann"}, "ended": ended(cancelled=A)}
    assert broken(*told, reserve("ann", 3, B, key="l"), **left) == set()
    for again in (reserve("ann", 3, B, key="k"), unanswered(reserve("ann", 3, key="k"))):
        calls = [*told, again, refused("ann", 4, "already_booked", B)]
        assert broken(*calls, **left) == {10}
        assert broken(*calls, **left, given=facts(lossy=True)) == set()
    nothing = {"ended": ended(cancelled=A)}
    assert broken(*told, replayed_cancelled("ann", 3, A, key="k"), **nothing) == set()
    assert broken(*told, replayed_cancelled("ann", 3, A, key="l"), **nothing) == {10}
    assert broken(*told, refused("ann", 3, key="k"), **nothing, given=facts(0, 1)) == {10}
    assert broken(replayed_cancelled("ann", 3, A, key="k"), **nothing) == {4, 10}


def test_10_a_replay_reads_a_booking_as_others_do() -> None:
    """While Redis cannot be asked it does not know of a cancel on its way."""
    told = [reserve("ann", 1, A, key="k"), cancel(A, 2, 202), reserve("ann", 3, A, key="k")]
    left = {"ended": ended(cancelled=A)}
    assert broken(*told, **left) == {9, 10}
    assert broken(*told, **left, given=facts(blind=[(2, 4)])) == set()
    told[1] = cancel(A, 2)
    assert broken(*told, **left, given=facts(blind=[(2, 4)])) == {9, 10}


def test_10_what_may_be_a_replay_may_also_have_made_it() -> None:
    """A call that took long, and somebody cancelled what it had made."""
    told = [
        reserve("ann", 1, A, key="k", end=5),
        refused("ann", 2, "already_booked", A),
        cancel(A, 3, 202),
    ]
    left = {"ended": ended(cancelled=A)}
    assert broken(*told, **left, given=facts(blind=[(4, 6)])) == set()


def test_10_a_key_stands_for_one_request() -> None:
    """Whoever uses it first; another user or event is refused, and nobody else is."""
    left = {"rows": {A: "ann"}}
    mine = [reserve("ann", 1, A, key="k"), refused("bob", 1, KEY_REUSED, key="k")]
    assert broken(*mine, refused("ann", 2, KEY_REUSED, event=OTHER, key="k"), **left) == set()
    assert broken(*mine, refused("bob", 2, key="k"), **left, given=facts(0, 1)) == {10}
    both = {"rows": {A: "ann", B: "bob"}}
    assert broken(*mine, reserve("bob", 2, B, key="k"), **both) == {10}
    assert broken(*mine, reserve("bob", 2, B, key="k"), **both, given=facts(lossy=True)) == set()
    assert broken(*mine, reserve("bob", 2, 0, 503, key="k"), **left) == set()
    assert broken(*mine, reserve("bob", 2, 0, 429, key="k"), **left) == set()
    assert broken(refused("ann", 1, KEY_REUSED, key="l")) == {10}


def test_10_calls_are_taken_in_the_order_of_their_begins() -> None:
    """A history has them in the order in which they were answered."""
    told = [refused("ann", 3), reserve("ann", 1, A, end=2.9)]
    assert broken(*told, rows={A: "ann"}, given=facts(1)) == {10}


def test_10_says_where_it_could_not_go_on() -> None:
    """What he held, and the calls that do not fit."""
    told = [reserve("ann", 1, A), refused("bob", 1.5, end=4), refused("ann", 2)]
    (sentence,) = Round(*told, rows={A: "ann"}, given=facts(1)).sentences()
    assert sentence == (
        "event 7, user 'ann': no order explains what he was told; after 1 answers he holds "
        f"booking {A}, and none of these fits: "
        "line 3 (reserve, 1.000 s to 1.500 s, 409 sold_out)"
    )


# The judge himself


def test_numbers_are_those_that_are_published() -> None:
    """Ten, in their order."""
    assert list(checker.INVARIANTS) == list(range(1, 11))
    for number, checks in checker.INVARIANTS.items():
        assert all((each.__doc__ or "").startswith(f"{number}: ") for each in checks)


def test_judge_does_not_know_who_is_judged() -> None:
    """He imports nothing of the code under test."""
    for module in (checker, linear, record):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        named = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        named |= {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert not {name.partition(".")[0] for name in named} & {"engine", "api", "worker"}


@pytest.mark.parametrize(("seats", "code"), [(1, 1), (2, 0)])
def test_saved_round_is_judged_anew(tmp_path: Path, seats: int, code: int) -> None:
    """``python -m bench.drill.checker FOLDER`` says the same, and exits with 1 or 0."""
    played = Round(reserve("ann", 1, A), reserve("bob", 2, B), **BOTH, given=facts(seats))
    record.write(tmp_path, played.calls, played.facts, played.dump)
    command = [sys.executable, "-m", "bench.drill.checker", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.splitlines() == [f"1: {each}" for each in played.sentences()]
