"""The minute in which tickets go on sale: everybody at once, and each seat once."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from tests.world import LONG

if TYPE_CHECKING:
    from bench.caller import Answer
    from tests.world import Sale

ROUNDS = 5 if LONG else 1


async def rush(sale: Sale, event_id: int, queues: list[list[str]]) -> list[Answer]:
    """Let each queue of users through a door of its own, all doors at once."""
    async with AsyncExitStack() as open_doors:
        callers = [await open_doors.enter_async_context(sale.caller()) for _ in queues]

        async def door(number: int) -> list[Answer]:
            return [await callers[number].reserve(event_id, user) for user in queues[number]]

        passed = await asyncio.gather(*map(door, range(len(queues))))
    return [answer for answers in passed for answer in answers]


def verdict(answer: Answer) -> str:
    """Whether an answer sells a seat, or else its code."""
    return "sold" if answer.status in (201, 202) else answer.body["code"]


async def test_five_thousand_users_for_a_thousand_seats_make_a_thousand_bookings(
    sale: Sale,
) -> None:
    """As many successes as seats, ``sold_out`` for all others, and the same rows in the ledger."""
    for _ in range(ROUNDS):
        event_id = await sale.open_event(1000)
        queues = [[f"user-{door}-{place}" for place in range(20)] for door in range(250)]
        answers = await rush(sale, event_id, queues)
        assert Counter(map(verdict, answers)) == {"sold": 1000, "sold_out": 4000}
        await sale.count_seats()
        rows = await sale.sql("SELECT id, user_id FROM bookings WHERE event_id = $1", event_id)
        sold = {(a.body["id"], a.body["user_id"]) for a in answers if verdict(a) == "sold"}
        assert {tuple(row) for row in rows} == sold
        assert len(rows) == 1000


async def test_one_user_who_asks_two_hundred_times_at_once_gets_one_booking(sale: Sale) -> None:
    """The other 199 answers are ``already_booked`` and name that very booking."""
    event_id = await sale.open_event(1000)
    others = [[f"user-{n}"] for n in range(50)]
    answers = (await rush(sale, event_id, [["ann"]] * 200 + others))[:200]
    assert Counter(map(verdict, answers)) == {"sold": 1, "already_booked": 199}
    named = {a.body["id" if verdict(a) == "sold" else "booking_id"] for a in answers}
    await sale.count_seats()
    rows = await sale.sql(
        "SELECT id FROM bookings WHERE user_id = 'ann' AND event_id = $1", event_id
    )
    assert {row["id"] for row in rows} == named


async def test_a_cold_event_that_a_thousand_users_ask_for_at_once_is_loaded_once(
    sale: Sale,
) -> None:
    """What was booked by hand counts, and nobody gets a seat twice."""
    event_id = await sale.open_event(300)
    await sale.sql(
        "INSERT INTO bookings (event_id, user_id) "
        "SELECT $1, 'guest-' || n FROM generate_series(1, 100) n",
        event_id,
    )
    users = [f"guest-{n}" for n in range(1, 101)] + [f"user-{n}" for n in range(900)]
    answers = await rush(sale, event_id, [[user] for user in users])
    expected = {"already_booked": 100, "sold": 200, "sold_out": 700}
    assert Counter(map(verdict, answers)) == expected
    await sale.count_seats()
    assert sale.said("hydrated", event_id=event_id) == 1


async def test_a_201_is_in_the_ledger_before_it_is_heard(sale: Sale) -> None:
    """Whoever hears it can ask Postgres at once."""
    event_id = await sale.open_event(1000)

    async def door(number: int) -> None:
        async with sale.caller() as caller, sale.ledger() as ledger:
            for place in range(20):
                answer = await caller.reserve(event_id, f"user-{number}-{place}")
                row = await ledger.fetchrow(
                    "SELECT id FROM bookings WHERE id = $1", answer.body["id"]
                )
                assert row or answer.status == 202

    await asyncio.gather(*map(door, range(8)))
    await sale.count_seats()
