"""The judge of a round: what its history, its facts and both stores say against the promises.

``python -m bench.drill.checker FOLDER`` judges a saved round anew: it prints what was broken, and
exits with 1 if anything was.

The judge has seen nothing but the record, and knows nothing of the code under test. It accuses only
where it is certain. A call without an answer may have happened at any time since it began, or
never; what people touched themselves is left out; and where a fault excuses something, it is
excused, no more. The numbers of the invariants are those of docs/guarantees.md.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from http import HTTPStatus
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from bench.drill import linear
from bench.drill.linear import Claim, Op
from bench.drill.record import Violation, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.drill.record import BookingRow, Call, Drift, Dump, EndedRow, Facts

    Place = tuple[int, str]

UNANSWERED: Final = (500, 503, 504)
"""Nothing was decided, or the answer was lost on the way."""
GRANTED: Final = (HTTPStatus.CREATED, HTTPStatus.ACCEPTED)
GIVEN_BACK: Final = (HTTPStatus.OK, HTTPStatus.ACCEPTED)
NO_ANSWER_TO_JUDGE: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
KEY_REUSED: Final = "422 idempotency_key_reused"
HANDS: Final = frozenset(
    ("hands-sql", "hands-redis", "hands-unheard", "reconcile-slow", "repair-late", "pg-lock")
)
"""Faults in which no program and no server fails, nor a way between them."""
MOST_NAMED: Final = 12
"""So many things of a kind a sentence names, and how many more there are."""


class Stay(NamedTuple):
    """A booking that was certainly held from ``since`` until ``until``; ``told`` says so."""

    booking: int
    place: Place
    since: float
    until: float
    told: Call


class Case:
    """A round, sorted for the judge.

    ``place`` is an event and a user. ``answers`` are the reservations that were answered with a
    booking as held, ``grants`` those of them that made or replayed it. ``keys`` are those that were
    sent under an Idempotency-Key.
    """

    def __init__(self, calls: list[Call], facts: Facts, dump: Dump) -> None:
        self.calls, self.facts, self.dump = calls, facts, dump
        self.rows: dict[int, BookingRow] = {row.id: row for row in dump.bookings}
        self.ended: dict[int, EndedRow] = {row.id: row for row in dump.ended}
        self.places: dict[int, Place] = {}
        self.reserves: dict[Place, list[Call]] = {}
        self.keys: dict[str, list[Call]] = {}
        self.answers: dict[int, list[Call]] = defaultdict(list)
        self.grants: dict[int, list[Call]] = {}
        self.cancels: dict[int, list[Call]] = {}
        self.reads: dict[int, list[Call]] = {}
        self.final: dict[int, Call] = {}
        # Calls may be equal; the list keeps them alive, so that their ids stay their own.
        self._lines = {id(call): line for line, call in enumerate(calls, 1)}
        self._start = min((call.begin for call in calls), default=0.0)
        for call in sorted(calls, key=lambda call: call.begin):
            self._sort(call)

    def _sort(self, call: Call) -> None:
        if call.kind == "reserve":
            place = call.event, call.user
            self.reserves.setdefault(place, []).append(call)
            if call.key:
                self.keys.setdefault(call.key, []).append(call)
            if call.answered and is_answered(call):
                self.places.setdefault(call.answered, place)
            if call.answered and is_answered(call) and call.state != "cancelled":
                self.answers[call.answered].append(call)
                if call.status in GRANTED:
                    self.grants.setdefault(call.answered, []).append(call)
        elif call.kind == "cancel":
            self.cancels.setdefault(call.booking, []).append(call)
        elif call.kind == "read":
            self.reads.setdefault(call.booking, []).append(call)
            if call.after and is_answered(call):
                self.final[call.booking] = call

    # What may be said of it

    def is_touched(self, place: Place | None) -> bool:
        """Whether people changed this user's rows themselves."""
        return place in self.facts.touched

    def is_by_hand(self, event: int) -> bool:
        """Whether people changed anything of an event."""
        facts, seats = self.facts, self.facts.events.get(event)
        changed = facts.hands_in_ledger and seats is not None and seats.fewest != seats.most
        return event in facts.edited or changed or any(each == event for each, _ in facts.touched)

    def is_real(self, booking: int) -> bool:
        """Whether the system made a booking: a hand may have written a number of its own."""
        return booking in self.grants or self.places[booking][0] not in self.facts.edited

    def may_be_rejected(self, booking: int) -> bool:
        """Whether something excuses that the ledger refused a booking."""
        facts = self.facts
        edited = self.places[booking][0] in facts.edited
        return facts.hands_in_ledger or facts.poisoned > 0 or edited

    def became(self, booking: int) -> str:
        """What a booking is in the end, as it was read."""
        return _told(self.final[booking]) if booking in self.final else "unknown"

    def is_booked(self, booking: int) -> bool:
        """Whether the ledger has a booking, and as its owner who was told of it."""
        row = self.rows.get(booking)
        return row is not None and (row.event, row.user) == self.places[booking]

    def is_cancelled(self, booking: int) -> bool:
        """Whether the ledger has a booking of this owner as cancelled."""
        row = self.ended.get(booking)
        if row is None or row.outcome != "cancelled":
            return False
        return (row.event, row.user) == self.places[booking]

    def final_cancels(self, booking: int) -> list[Call]:
        """The cancels that nothing can undo."""
        return [call for call in self.cancels.get(booking, []) if self._is_final(call)]

    def _is_final(self, cancel: Call) -> bool:
        if not is_answered(cancel):
            return False
        lossy = self.facts.lossy
        return cancel.status == HTTPStatus.OK or (
            cancel.status == HTTPStatus.ACCEPTED and not lossy
        )

    def is_stale(self, call: Call) -> bool:
        """Whether an answer may be of a state before: see ``blind`` and ``split`` in ``Facts``."""
        if not is_answered(call):
            return False
        replayed = call.kind == "reserve" and call.key and call.status in GRANTED
        if replayed or (call.kind == "read" and call.status == HTTPStatus.OK):
            cancels = self.cancels.get(call.booking or call.answered, [])
            begun = any(cancel.begin < (call.end or inf) for cancel in cancels)
            known = any(_is_in_ledger(cancel, call.begin) for cancel in cancels)
            return begun and not known and _overlaps(call, self.facts.blind)
        refused = call.kind == "reserve" and call.status == HTTPStatus.CONFLICT
        return refused and _overlaps(call, self.facts.split)

    # How a sentence names things

    def at(self, instant: float) -> str:
        """An instant, relative to the first call."""
        return f"{instant - self._start:.3f} s"

    def who(self, booking: int) -> str:
        """A booking, and whose it is."""
        event, user = self.places[booking]
        return f"event {event}, user {user!r}, booking {booking}"

    def cite(self, *calls: Call) -> str:
        """Calls, so that they can be found in ``history.jsonl``."""
        return _listed([self._cited(call) for call in calls])

    def _cited(self, call: Call) -> str:
        end = "no answer"
        if call.end is not None:
            end = f"to {self.at(call.end)}, {_told(call)}"
        booking = f" {call.answered or call.booking}" if call.answered or call.booking else ""
        return f"line {self._lines[id(call)]} ({call.kind}{booking}, {self.at(call.begin)} {end})"


def judge(calls: list[Call], facts: Facts, dump: Dump) -> list[Violation]:
    """Judge a round: every promise that was broken, each in a sentence."""
    case = Case(calls, facts, dump)
    return [
        Violation(number, sentence)
        for number, checks in INVARIANTS.items()
        for check in checks
        for sentence in check(case)
    ]


def is_answered(call: Call) -> bool:
    """Whether it is known what a call did."""
    return call.end is not None and call.status not in UNANSWERED


def _is_in_ledger(cancel: Call, instant: float) -> bool:
    """Whether the ledger had a cancel before an instant, for all to see."""
    return cancel.status == HTTPStatus.OK and cancel.end is not None and cancel.end < instant


def _overlaps(call: Call, stretches: list[tuple[float, float]]) -> bool:
    return any(call.begin <= end and (call.end or inf) >= begin for begin, end in stretches)


def _told(call: Call) -> str:
    """An answer in a word or two: ``410 booking_lost``, ``200 confirmed``."""
    return f"{call.status} {call.code or call.state}".rstrip()


def _listed(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return "; ".join(names[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


# 1 and 2: what must have been held


def stays(case: Case) -> Iterator[Stay]:
    """What was certainly held: from the first answer that says so to the first cancel's begin."""
    for booking, place in case.places.items():
        vanished = case.became(booking) in ("410 booking_lost", "410 booking_rejected")
        if vanished or case.is_touched(place) or not case.is_real(booking):
            continue
        ends = [(call.end, call) for call in case.answers[booking] if call.end is not None]
        if not ends:
            continue
        since, told = min(ends, key=lambda pair: pair[0])
        until = min((call.begin for call in case.cancels.get(booking, [])), default=inf)
        if since < until:
            yield Stay(booking, place, since, until, told)


def never_oversold(case: Case) -> Iterator[str]:
    """1: at no instant were more bookings certainly held than the event had seats."""
    by_event: dict[int, list[Stay]] = defaultdict(list)
    for stay in stays(case):
        by_event[stay.place[0]].append(stay)
    for event, all_of_them in by_event.items():
        seats = case.facts.events.get(event)
        if seats is None:
            continue
        instant, held = _peak(all_of_them)
        if len(held) > seats.most:
            names = [
                f"{each.booking} of {each.place[1]!r}, {case.cite(each.told)}" for each in held
            ]
            yield (
                f"event {event}: at {case.at(instant)} {len(held)} bookings were held, and it had "
                f"{seats.most} seats at most: {_listed(names)}"
            )


def _peak(all_of_them: list[Stay]) -> tuple[float, list[Stay]]:
    """When the most were held at once, and which; who leaves at an instant makes room in it."""
    most, peak, count = 0, 0.0, 0
    changes = [(stay.since, 1) for stay in all_of_them] + [(stay.until, -1) for stay in all_of_them]
    for instant, change in sorted(changes):
        count += change
        if count > most:
            most, peak = count, instant
    return peak, [stay for stay in all_of_them if stay.since <= peak < stay.until]


def one_booking_at_a_time(case: Case) -> Iterator[str]:
    """2: no user certainly held two bookings of one event at once."""
    by_place: dict[Place, list[Stay]] = defaultdict(list)
    for stay in stays(case):
        by_place[stay.place].append(stay)
    for all_of_them in by_place.values():
        for one, other in pairwise(sorted(all_of_them, key=lambda stay: stay.since)):
            if other.since < one.until:
                yield (
                    f"{case.who(one.booking)}: at {case.at(other.since)} he held booking "
                    f"{other.booking} too: {case.cite(one.told, other.told)}"
                )


def one_row_a_user(case: Case) -> Iterator[str]:
    """2: the ledger has one booking per user and event, and each id once."""
    places = Counter((row.event, row.user) for row in case.dump.bookings)
    for (event, user), count in places.items():
        if count > 1:
            yield f"event {event}, user {user!r}: the ledger has {count} bookings of him"
    ids = [row.id for row in case.dump.bookings] + [row.id for row in case.dump.ended]
    for booking, count in Counter(ids).items():
        if count > 1:
            yield f"booking {booking}: the ledger has this id {count} times"


def one_owner_an_id(case: Case) -> Iterator[str]:
    """2: no id was answered for two users or events, and the ledger names the same."""
    for booking, place in case.places.items():
        calls = case.answers[booking] if case.is_real(booking) else []
        others = [call for call in calls if (call.event, call.user) != place]
        if others:
            yield f"{case.who(booking)}: the same id was answered to {case.cite(calls[0], *others)}"
        row = case.rows.get(booking) or case.ended.get(booking)
        if not calls or row is None or row.user is None or case.is_touched(place):
            continue
        if (row.event, row.user) != place:
            yield (
                f"{case.who(booking)}: the ledger has it for event {row.event}, user {row.user!r}: "
                f"{case.cite(calls[0])}"
            )


# 3 and 4: what became of what was promised


def confirmed_is_kept(case: Case) -> Iterator[str]:
    """3: what was called confirmed is in the ledger, or was cancelled."""
    for booking, place in case.places.items():
        told = [call for call in case.grants.get(booking, []) if call.status == HTTPStatus.CREATED]
        told += [call for call in case.reads.get(booking, []) if _told(call) == "200 confirmed"]
        if not told or case.is_touched(place) or case.is_booked(booking):
            continue
        if not case.cancels.get(booking, []):
            yield f"{case.who(booking)}: confirmed, and not in the ledger: {case.cite(*told)}"
        elif not case.is_cancelled(booking):
            yield (
                f"{case.who(booking)}: confirmed, and the ledger has it neither as a booking nor "
                f"as cancelled: {case.cite(*told, *case.cancels.get(booking, []))}"
            )


_READS: Final = {
    "booking": "200 confirmed",
    "cancelled": "410 booking_cancelled",
    "rejected": "410 booking_rejected",
    "dead": "410 booking_rejected",
    "nothing": "410 booking_lost",
}
"""How a booking must read in the end, by what the ledger has of it."""


def every_booking_is_accounted_for(case: Case) -> Iterator[str]:
    """4: every booking reads in the end as the ledger has it, and what became of it is excused."""
    for booking, place in case.places.items():
        if case.is_touched(place) or not case.is_real(booking):
            continue
        told = case.cite(*case.answers[booking])
        final = case.final.get(booking)
        if final is None:
            yield f"{case.who(booking)}: it was never read in the end: {told}"
            continue
        in_ledger = "booking" if booking in case.rows else "nothing"
        if booking in case.ended:
            in_ledger = case.ended[booking].outcome
        if _told(final) != _READS.get(in_ledger):
            yield (
                f"{case.who(booking)}: in the end the ledger has {in_ledger} of it, and it reads "
                f"{_told(final)}: {case.cite(final)}; {told}"
            )
        elif fault := _unexcused(case, booking, in_ledger):
            yield f"{case.who(booking)}: {fault}: {case.cite(final)}; {told}"


def _unexcused(case: Case, booking: int, in_ledger: str) -> str | None:
    """What is wrong with what became of a booking, or None."""
    if in_ledger == "nothing" and not case.facts.lossy:
        return "it was lost, and Redis lost nothing"
    if in_ledger in ("rejected", "dead") and not case.may_be_rejected(booking):
        return "the ledger refused it, and nobody gave it a reason to"
    if in_ledger == "cancelled" and not case.cancels.get(booking, []):
        return "it was cancelled, and nobody asked for that"
    return None


# 5: refusals


def sold_out_is_true(case: Case) -> Iterator[str]:
    """5: nobody was told that an event is sold out while a seat of it was certainly free."""
    always = {*case.facts.touched, *_unaccounted(case)}
    refused: dict[int, list[Call]] = defaultdict(list)
    for call in case.calls:
        if _told(call) == "409 sold_out" and not case.is_stale(call):
            refused[call.event].append(call)
    for event, calls in refused.items():
        seats = case.facts.events.get(event)
        if seats is None or event in case.facts.edited:
            continue  # a hand may have sold seats in Redis that nobody has
        spans = _spans_of_event(case, event, always)
        since, until = (sorted(instants) for instants in zip(*spans, strict=True))
        for call in calls:
            most = _most_within(since, until, call)
            if most < seats.fewest:
                yield (
                    f"event {event}, user {call.user!r}: sold out, and at most {most} of "
                    f"{seats.fewest} seats can have been taken: {case.cite(call)}"
                )


def _most_within(since: list[float], until: list[float], call: Call) -> int:
    """How many users at most may have held a seat at one instant of a call."""
    end = call.begin if call.end is None else call.end
    begins = since[bisect_right(since, call.begin) : bisect_right(since, end)]
    return max(
        bisect_right(since, instant) - bisect_left(until, instant)
        for instant in (call.begin, *begins)
    )


def _spans_of_event(case: Case, event: int, always: set[Place]) -> list[tuple[float, float]]:
    """When each user may have held a seat; one span per stretch of time."""
    spans = [(-inf, inf) for place in always if place[0] == event]
    for place, calls in case.reserves.items():
        if place[0] == event and place not in always:
            spans += _merged(_spans_of_calls(case, calls))
    return spans or [(inf, inf)]


def _unaccounted(case: Case) -> Iterator[Place]:
    """Whose bookings none of his reservations can have made: nobody knows since when."""
    made: dict[int, tuple[int | None, str | None]] = dict(case.places)
    made |= {row.id: (row.event, row.user) for row in case.dump.bookings}
    made |= {row.id: (row.event, row.user) for row in case.dump.ended}
    for booking, (event, user) in made.items():
        place = event or 0, user or f"whoever had booking {booking}"
        answered = all(is_answered(call) for call in case.reserves.get(place, []))
        if booking not in case.grants and answered:
            yield place


def _spans_of_calls(case: Case, calls: list[Call]) -> Iterator[tuple[float, float]]:
    """When one user's reservations may have held a seat, in the order of their begins."""
    for call in calls:
        if not is_answered(call):
            yield call.begin, inf
        elif call.status in GRANTED and call.state != "cancelled":
            ends = [cancel.end for cancel in case.final_cancels(call.answered)]
            free = min((end for end in ends if end is not None), default=inf)
            yield call.begin, free if free > call.begin else inf
        elif case.facts.hands_in_ledger and case.is_by_hand(call.event):
            yield call.begin, inf  # Redis may have given a seat that the ledger then refused


def _merged(spans: Iterator[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for since, until in sorted(spans):
        if merged and since <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], until)
        else:
            merged.append((since, until))
    return merged


# 6, 7 and 8: both stores in the end


def ledger_counts_right(case: Case) -> Iterator[str]:
    """6: ``booked`` is the number of rows, and not more than there are seats."""
    rows = Counter(row.event for row in case.dump.bookings)
    for event in case.dump.events:
        if not rows[event.id] == event.booked <= event.total_seats:
            yield (
                f"event {event.id}: {event.booked} seats are booked, of {event.total_seats}, and "
                f"the ledger has {rows[event.id]} bookings"
            )
    for missing in rows.keys() - {event.id for event in case.dump.events}:
        yield f"event {missing}: the ledger has {rows[missing]} bookings, and no such event"


def nothing_drifted(case: Case) -> Iterator[str]:
    """7: Redis and the ledger agree, but for what hands have changed and nobody has mended."""
    facts = case.facts
    touched_still = facts.touched - facts.mended
    for drift in facts.drift:
        touched = (drift.event_id, drift.user_id) in touched_still
        changed = drift.event_id in facts.edited or (
            facts.hands_in_ledger and case.is_by_hand(drift.event_id)
        )
        if not touched and not changed:
            yield f"{_drifted(drift)}, before any repair"
    for said in facts.said:
        if said.event == "drift" and not case.is_by_hand(said.event_id):
            yield f"event {said.event_id}: {said.program} said: {said.line}"


def refused_holds_no_seat(case: Case) -> Iterator[str]:
    """7: what the ledger has refused gave its seat back at once, if nothing but hands struck."""
    if not HANDS.issuperset(case.facts.faults):
        return
    refused = {row.id for row in case.dump.ended if row.outcome == "rejected"}
    for drift in case.facts.drift:
        if drift.redis_booking in refused:
            yield f"{_drifted(drift)}: the ledger has refused it, and it holds a seat"


def repair_leaves_nothing(case: Case) -> Iterator[str]:
    """8: after the repair there is no difference left."""
    for drift in case.facts.left_over:
        yield f"{_drifted(drift)}, after the repair"


def _drifted(drift: Drift) -> str:
    user = "" if drift.user_id is None else f", user {drift.user_id!r}"
    return (
        f"event {drift.event_id}{user}: {drift.kind}, Redis says {drift.redis}, the ledger "
        f"{drift.ledger}"
    )


def stores_agree(case: Case) -> Iterator[str]:
    """8: every warm event in Redis is the ledger's: users, bookings, seats."""
    ledger: dict[int, dict[str, int]] = defaultdict(dict)
    for row in case.dump.bookings:
        ledger[row.event][row.user] = row.id
    totals = {event.id: event.total_seats for event in case.dump.events}
    for event, keys in case.dump.redis.items():
        differ = keys.users.items() ^ ledger[event].items()
        for user in sorted({user for user, _ in differ}):
            yield (
                f"event {event}, user {user!r}: Redis has booking {keys.users.get(user)}, the "
                f"ledger {ledger[event].get(user)}"
            )
        if keys.total != totals.get(event) or keys.left != keys.total - len(keys.users):
            yield (
                f"event {event}: Redis has {keys.total} seats, {keys.left} left and "
                f"{len(keys.users)} users, the ledger {totals.get(event)} seats"
            )


# 9: what never happens


def cancelled_stays_cancelled(case: Case) -> Iterator[str]:
    """9: a booking that was given back for good is never held again."""
    for booking, place in case.places.items():
        cancels = case.final_cancels(booking)
        if not cancels or case.is_touched(place):
            continue
        end, cancel = min(((call.end or 0.0, call) for call in cancels), key=lambda pair: pair[0])
        held = [call for call in case.reads.get(booking, []) if call.status == HTTPStatus.OK]
        later = [call for call in (*held, *case.answers[booking]) if call.begin > end]
        back = [call for call in later if not case.is_stale(call)]
        if back:
            yield f"{case.who(booking)}: cancelled, and back: {case.cite(cancel, *back)}"
        if booking in case.rows:
            yield f"{case.who(booking)}: cancelled, and in the ledger: {case.cite(cancel)}"


def dead_letters_are_poison(case: Case) -> Iterator[str]:
    """9: nothing but nonsense becomes a dead letter, and whatever does is kept."""
    poisoned = case.facts.poisoned
    rows = [str(row.id) for row in case.dump.ended if row.outcome == "dead"]
    if len(rows) > poisoned:
        yield f"{len(rows)} dead letters of {poisoned} entries of nonsense: {_listed(rows)}"
    lines = [f"{s.program}: {s.line}" for s in case.facts.said if s.event == "dead_letter"]
    if len(lines) > poisoned:
        yield f"{len(lines)} dead letters of {poisoned} entries of nonsense: {_listed(lines)}"
    if len(rows) < len(lines):
        yield f"{len(rows)} dead letters are kept, and more were told of: {_listed(lines)}"


def malformed_is_refused(case: Case) -> Iterator[str]:
    """9: what no client should send is answered with a 4xx."""
    for call in case.calls:
        if call.kind == "malformed" and call.end is not None and call.status // 100 != 4:  # noqa: PLR2004 - 4xx
            yield f"malformed, and not refused: {case.cite(call)}"


def no_defects(case: Case) -> Iterator[str]:
    """9: no 5xx but 503, and no traceback; poison excuses a 500 and the line that tells of it."""
    poisoned = case.facts.poisoned > 0
    fine = (503, 500) if poisoned else (503,)
    for call in case.calls:
        faulty = call.end is not None and call.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if faulty and call.kind != "malformed" and call.status not in fine:
            yield f"a defect: {case.cite(call)}"
    for said in case.facts.said:
        excused = poisoned and '"request_failed"' in said.line
        if said.event == "traceback" and not excused:
            yield f"{said.program} said: {said.line}"


# 10: an order that explains everything


def keys_stand_for_one_request(case: Case) -> Iterator[str]:
    """10: a key that somebody else has used is refused, and no other; unless Redis lost it."""
    for key, calls in case.keys.items():
        users = {(call.event, call.user) for call in calls}
        refused = [call for call in calls if _told(call) == KEY_REUSED]
        if len(users) == 1 and refused:
            yield f"key {key!r}: refused, and nobody else has used it: {case.cite(*refused)}"
        taken = [call for call in calls if is_answered(call) and call not in refused]
        taken = [call for call in taken if call.status not in NO_ANSWER_TO_JUDGE]
        if len({(call.event, call.user) for call in taken}) > 1 and not case.facts.lossy:
            yield f"key {key!r}: it stood for two requests: {case.cite(*taken)}"


def histories_make_sense(case: Case) -> Iterator[str]:
    """10: what a user was told of an event can have happened one after the other."""
    facts = case.facts
    lost = frozenset(b for b in case.places if case.became(b) == "410 booking_lost")
    for (event, user), calls in _histories(case).items():
        pairs = [(call, op) for call in calls if (op := _op(case, call)) is not None]
        found = linear.explain(
            [op for _, op in pairs], lossy=facts.lossy, lost=lost if facts.lossy else frozenset()
        )
        if found is None:
            continue
        following = case.cite(*(pairs[i][0] for i in found.next))
        held = f"booking {found.state.held}" if found.state.held else "nothing"
        wrong = "no order explains what he was told"
        if not found.judged:
            wrong = f"could not be judged, {linear.MAX_NODES} ways were tried"
        yield (
            f"event {event}, user {user!r}: {wrong}; after {found.placed} answers he holds {held}, "
            f"and none of these fits: {following}"
        )


def _histories(case: Case) -> dict[Place, list[Call]]:
    """Each user's calls about each event, in the order of their begins, as far as they can be used.

    Left out whole is a booking that the ledger refused with a reason: its seat went back some time;
    and one that is lost and was made while two Redis answered: the other knew nothing of it.
    """
    histories: dict[Place, list[Call]] = defaultdict(list)
    for call in sorted(case.calls, key=lambda call: call.begin):
        booking = call.booking or (call.answered if is_answered(call) else 0)
        place = (call.event, call.user) if call.kind == "reserve" else case.places.get(booking)
        stale = case.is_stale(call) and call.status not in GRANTED
        if place is None or case.is_touched(place) or stale:
            continue
        if booking not in case.places or _is_to_be_explained(case, booking):
            histories[place].append(call)
    return histories


def _is_to_be_explained(case: Case, booking: int) -> bool:
    became = case.became(booking)
    if became == "410 booking_rejected" and case.may_be_rejected(booking):
        return False
    grants = case.grants.get(booking, [])
    if became == "410 booking_lost" and any(_overlaps(each, case.facts.split) for each in grants):
        return False
    return case.is_real(booking)


_CLAIMS: Final = {
    ("reserve", "201 confirmed"): Claim.GRANTED,
    ("reserve", "202 pending"): Claim.GRANTED,
    ("reserve", "201 cancelled"): Claim.REPLAYED,
    ("reserve", "409 already_booked"): Claim.HELD,
    ("reserve", "409 sold_out"): Claim.NOTHING,
    ("cancel", "200"): Claim.ENDED,
    ("cancel", "202"): Claim.GIVEN_BACK,
    ("cancel", "404"): Claim.GONE,
    ("read", "200"): Claim.HELD,
    ("read", "410 booking_cancelled"): Claim.CANCELLED,
    ("read", "410 booking_lost"): Claim.LOST,
    ("read", "404"): Claim.NEVER,
}


def _op(case: Case, call: Call) -> Op | None:
    """A call as the search takes it; None if its answer says nothing of the user's booking."""
    if call.kind == "read" and not is_answered(call):
        return None
    if not is_answered(call) or case.is_stale(call):  # stale is what may have been a replay
        perhaps = Claim.PERHAPS_CANCELLED if call.kind == "cancel" else Claim.PERHAPS_RESERVED
        return Op(perhaps, call.begin, booking=call.booking, key=call.key)
    facts, told = case.facts, _told(call)
    if call.status in NO_ANSWER_TO_JUDGE or told == KEY_REUSED:
        return None
    if told == "404 event_not_found" and (facts.hands_in_ledger or call.event not in facts.events):
        return None
    if told == "409 sold_out" and call.event in facts.edited:
        return None  # a hand may have taken him out of Redis
    claim = _CLAIMS.get((call.kind, told)) or _CLAIMS.get((call.kind, str(call.status)))
    return Op(
        claim or Claim.IMPOSSIBLE,
        call.begin,
        inf if call.end is None else call.end,
        call.booking or call.answered,
        call.key,
    )


INVARIANTS: Final[dict[int, tuple[Callable[[Case], Iterator[str]], ...]]] = {
    1: (never_oversold,),
    2: (one_booking_at_a_time, one_row_a_user, one_owner_an_id),
    3: (confirmed_is_kept,),
    4: (every_booking_is_accounted_for,),
    5: (sold_out_is_true,),
    6: (ledger_counts_right,),
    7: (nothing_drifted, refused_holds_no_seat),
    8: (repair_leaves_nothing, stores_agree),
    9: (cancelled_stays_cancelled, dead_letters_are_poison, malformed_is_refused, no_defects),
    10: (keys_stand_for_one_request, histories_make_sense),
}


def main() -> int:
    """Judge the round in the folder that is named; 1 if a promise was broken."""
    violations = judge(*read(Path(sys.argv[1])))
    for violation in violations:
        print(f"{violation.invariant}: {violation.sentence}")  # noqa: T201 - what it is for
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
