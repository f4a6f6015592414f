"""What a person does in psql while tickets are sold: it counts, and Redis follows in a second.

Nothing is restarted, and a crowd goes on booking and cancelling in each event meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests import world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.caller import Answer
    from tests.world import Sale

FOLLOWS_S = 1.0
CROWD = 8
NUMBERS = itertools.count()
CROWD_MAY_HEAR = {"already_booked", "sold_out", "event_not_found", "booking_not_found"}


@asynccontextmanager
async def crowd(sale: Sale, event_id: int) -> AsyncIterator[None]:
    """Others who book and cancel all the time; when they leave, the seats are counted."""
    over = asyncio.Event()

    async def visit(number: int) -> None:
        dice = random.Random(number)
        async with sale.caller() as caller:
            while not over.is_set():
                made = await caller.reserve(event_id, f"crowd-{number}-{dice.randrange(4)}")
                assert made.status in (201, 202) or made.body["code"] in CROWD_MAY_HEAR, made
                booking = made.body.get("id") or made.body.get("booking_id")
                if booking and dice.random() < 0.7:
                    gone = await caller.cancel(booking)
                    assert gone.status in (200, 202, 404), gone

    async with asyncio.TaskGroup() as visits:
        for number in range(CROWD):
            visits.create_task(visit(number))
        try:
            yield
        finally:
            over.set()
    await sale.count_seats()


@asynccontextmanager
async def running_sale(sale: Sale, total_seats: int = 1000) -> AsyncIterator[int]:
    """An event that is on sale, with its crowd."""
    event_id = await sale.open_event(total_seats)
    async with sale.caller() as caller:
        assert (await caller.reserve(event_id, "first")).status == 201
    async with crowd(sale, event_id):
        yield event_id


class Seen:
    """An event as Redis has it, read without the engine's code."""

    def __init__(self, sale: Sale, event_id: int) -> None:
        self._sale = sale
        self._key = f"onsale:{{{event_id % sale.partitions}}}:event:{event_id}"

    async def users(self) -> set[str]:
        """Who holds a seat."""
        async with self._sale.redis() as redis:
            return set(await redis.hkeys(f"{self._key}:users"))

    async def says(self, **fields: object) -> bool:
        """Whether these fields have these values."""
        async with self._sale.redis() as redis:
            found = await redis.hmget(self._key, list(fields))
        return found == [str(value) for value in fields.values()]

    async def has(self, *users: str) -> bool:
        """Whether all of them hold a seat."""
        return set(users) <= await self.users()

    async def lacks(self, *users: str) -> bool:
        """Whether none of them holds a seat."""
        return not set(users) & await self.users()

    async def is_gone(self) -> bool:
        """Whether there is no key of the event."""
        async with self._sale.redis() as redis:
            return not [key async for key in redis.scan_iter(f"{self._key}*", count=1000)]


async def book_by_hand(sale: Sale, event_id: int, *users: str) -> list[int]:
    """Insert bookings in one statement; their ids."""
    statement = (
        "INSERT INTO bookings (event_id, user_id) SELECT $1, unnest($2::text[]) RETURNING id"
    )
    return [row["id"] for row in await sale.sql(statement, event_id, list(users))]


async def at_every_door(sale: Sale, event_id: int) -> list[Answer]:
    """Ask each process of the API for a seat, every time for somebody else."""
    answers = []
    for process in sale.api_processes():
        with sale.only(process):
            async with sale.caller() as caller:
                answers.append(await caller.reserve(event_id, f"user-{next(NUMBERS)}"))
    assert len(answers) > 1
    return answers


async def test_a_booking_made_by_hand_is_a_booking_like_any_other(sale: Sale) -> None:
    """Its user gets 409 with its id; GET reads it, DELETE gives the seat back."""
    async with running_sale(sale) as event_id, sale.caller() as caller:
        (booking,) = await book_by_hand(sale, event_id, "ann")
        await world.until(lambda: Seen(sale, event_id).has("ann"), within_s=FOLLOWS_S)
        refused = await caller.reserve(event_id, "ann")
        assert (refused.status, refused.body["booking_id"]) == (409, booking)
        read = await caller.read(booking)
        assert (read.status, read.body["user_id"], read.body["status"]) == (200, "ann", "confirmed")
        assert (await caller.cancel(booking)).status == 200
        assert (await caller.read(booking)).status == 410
        assert (await caller.cancel(booking)).status == 200
        again = await caller.reserve(event_id, "ann")
        assert again.status == 201
        assert again.body["id"] != booking


async def test_a_thousand_bookings_made_by_hand_at_once_are_followed(sale: Sale) -> None:
    """They are too many for one notification to name."""
    async with running_sale(sale, 2000) as event_id, sale.caller() as caller:
        users = [f"guest-{n}" for n in range(1000)]
        bookings = await book_by_hand(sale, event_id, *users)
        await world.until(lambda: Seen(sale, event_id).has(*users), within_s=FOLLOWS_S)
        refused = await caller.reserve(event_id, users[500])
        assert refused.body["booking_id"] == bookings[500]


async def test_a_seat_that_a_hand_takes_first_is_refused_to_who_waits_for_it(sale: Sale) -> None:
    """Redis had granted it; the ledger has the hand's booking, and the answer names that one."""
    event_id = await sale.open_event(10)
    seen = Seen(sale, event_id)
    async with sale.caller() as caller, sale.ledger() as hand:
        assert (await caller.reserve(event_id, "first")).status == 201
        async with hand.transaction():
            booking = await hand.fetchval(
                "INSERT INTO bookings (event_id, user_id) VALUES ($1, 'ann') RETURNING id", event_id
            )
            waiting = asyncio.create_task(caller.reserve(event_id, "ann", prefer="wait=10"))
            await world.until(lambda: seen.has("ann"))
        refused = await waiting
        assert (refused.status, refused.body["code"]) == (409, "already_booked")
        assert refused.body["booking_id"] == booking
    await sale.count_seats()


async def test_bookings_deleted_by_hand_free_their_seats(sale: Sale) -> None:
    """Their users can book again; the old ids are of nobody."""
    async with running_sale(sale) as event_id, sale.caller() as caller:
        made = [await caller.reserve(event_id, user) for user in ("ann", "bob")]
        assert [answer.status for answer in made] == [201, 201]
        await sale.sql("DELETE FROM bookings WHERE user_id IN ('ann', 'bob')")
        await world.until(lambda: Seen(sale, event_id).lacks("ann", "bob"), within_s=FOLLOWS_S)
        assert (await caller.read(made[0].body["id"])).status == 404
        again = await caller.reserve(event_id, "ann")
        assert again.status == 201
        assert again.body["id"] > made[0].body["id"]


async def test_a_booking_given_to_another_user_by_hand_is_his(sale: Sale) -> None:
    """Both of them see it."""
    async with running_sale(sale) as event_id, sale.caller() as caller:
        seen = Seen(sale, event_id)
        booking = (await caller.reserve(event_id, "ann")).body["id"]
        await sale.sql("UPDATE bookings SET user_id = 'bob' WHERE id = $1", booking)
        await world.until(lambda: seen.has("bob"), within_s=FOLLOWS_S)
        await world.until(lambda: seen.lacks("ann"), within_s=FOLLOWS_S)
        assert (await caller.reserve(event_id, "bob")).body["booking_id"] == booking
        assert (await caller.reserve(event_id, "ann")).status == 201


async def test_truncate_empties_every_event(sale: Sale) -> None:
    """Whoever had a seat can book again."""
    async with running_sale(sale) as event_id, sale.caller() as caller:
        other = await sale.open_event(5)
        users = [f"user-{n}" for n in range(5)]
        for each in (event_id, other):
            assert [(await caller.reserve(each, user)).status for user in users] == [201] * 5
        await sale.sql("TRUNCATE bookings")
        for each in (event_id, other):
            await world.until(lambda e=each: Seen(sale, e).lacks(*users), within_s=FOLLOWS_S)
        assert await caller.available(other) == 5
        assert (await caller.reserve(other, "user-0")).status == 201


async def test_seats_added_by_hand_are_sold(sale: Sale) -> None:
    """An event that was sold out sells as many more, and no more."""
    event_id = await sale.open_event(2)
    async with sale.caller() as caller:

        async def sell(*users: str) -> list[int]:
            return [(await caller.reserve(event_id, user)).status for user in users]

        assert await sell("ann", "bob", "cid") == [201, 201, 409]
        await sale.sql("UPDATE events SET total_seats = 4 WHERE id = $1", event_id)
        await world.until(lambda: Seen(sale, event_id).says(total=4, left=2), within_s=FOLLOWS_S)
        assert await sell("cid", "dan", "eve") == [201, 201, 409]
    await sale.count_seats()


async def test_seats_taken_away_by_hand_are_not_sold(sale: Sale) -> None:
    """Also in the middle of a sale: what Redis sells beyond the new total, the ledger refuses."""
    async with running_sale(sale, 40) as event_id, sale.caller() as caller:
        seen = Seen(sale, event_id)
        rows = await sale.sql(
            "UPDATE events SET total_seats = booked + 1 WHERE id = $1 RETURNING total_seats",
            event_id,
        )
        await world.until(lambda: seen.says(total=rows[0]["total_seats"]), within_s=FOLLOWS_S)
        made = [await caller.reserve(event_id, f"user-{n}") for n in range(5)]
        assert "sold_out" in {answer.body.get("code") for answer in made}


async def test_postgres_refuses_fewer_seats_than_are_booked(sale: Sale) -> None:
    """By the name of the rule, ``no_overselling``; and the sale goes on as it was."""
    event_id = await sale.open_event(10)
    async with sale.caller() as caller:
        for user in ("ann", "bob"):
            assert (await caller.reserve(event_id, user)).status == 201
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await sale.sql("UPDATE events SET total_seats = 1 WHERE id = $1", event_id)
        assert refused.value.constraint_name == "no_overselling"
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await book_by_hand(sale, event_id, *(f"guest-{n}" for n in range(9)))
        assert refused.value.constraint_name == "no_overselling"
        assert await caller.available(event_id) == 8
    await sale.count_seats()


async def test_a_new_event_is_sold_at_once(sale: Sale) -> None:
    """An INSERT is all it takes, for every process of the API."""
    event_id = await sale.open_event(100)
    made = await at_every_door(sale, event_id)
    assert {answer.status for answer in made} == {201}
    await sale.count_seats()


async def test_a_new_event_is_sold_at_once_after_a_404_for_its_id(sale: Sale) -> None:
    """That there was none is forgotten with the INSERT."""
    event_id = 1_000_000
    nobody = await at_every_door(sale, event_id)
    assert {answer.status for answer in nobody} == {404}
    await sale.sql("INSERT INTO events VALUES ($1, 'Чайка', 1000)", event_id)

    async def is_sold_at_every_door() -> bool:
        made = await at_every_door(sale, event_id)
        return 404 not in {answer.status for answer in made}

    await world.until(is_sold_at_every_door, within_s=FOLLOWS_S)
    await sale.count_seats()


async def test_a_renamed_event_is_shown_by_its_new_name(sale: Sale) -> None:
    """Wherever the name is shown."""
    async with running_sale(sale) as event_id, sale.caller() as caller:
        booking = (await caller.reserve(event_id, "ann")).body["id"]
        await sale.sql("UPDATE events SET name = 'Дядя Ваня' WHERE id = $1", event_id)

        async def is_shown() -> bool:
            event = await caller.call("GET", f"/api/events/{event_id}")
            return event.body["event"]["name"] == "Дядя Ваня"

        await world.until(is_shown, within_s=FOLLOWS_S)
        assert (await caller.read(booking)).body["event"]["name"] == "Дядя Ваня"


async def test_an_event_that_nobody_asks_for_leaves_redis_when_it_is_deleted(sale: Sale) -> None:
    """Nobody's sale has to stumble over it."""
    event_id = await sale.open_event(3)
    async with sale.caller() as caller:
        assert await caller.available(event_id) == 3
        await sale.sql("DELETE FROM events WHERE id = $1", event_id)
        await world.until(Seen(sale, event_id).is_gone, within_s=FOLLOWS_S)
        assert (await caller.reserve(event_id, "ann")).status == 404


async def test_a_deleted_event_is_not_sold_any_more(sale: Sale) -> None:
    """Nothing of it stays in Redis, those who try hear 404; made again, it is sold again."""
    async with running_sale(sale) as event_id, sale.caller() as caller:
        booking = (await caller.reserve(event_id, "ann")).body["id"]
        async with sale.ledger() as hand, hand.transaction():
            await hand.execute("SELECT FROM events WHERE id = $1 FOR UPDATE", event_id)
            await hand.execute("DELETE FROM bookings WHERE event_id = $1", event_id)
            await hand.execute("DELETE FROM events WHERE id = $1", event_id)
        await world.until(Seen(sale, event_id).is_gone, within_s=FOLLOWS_S)
        assert (await caller.reserve(event_id, "bob")).status == 404
        assert (await caller.read(booking)).status == 404
    await sale.sql("INSERT INTO events VALUES ($1, 'Чайка', 3)", event_id)
    async with sale.caller() as caller:

        async def is_known() -> bool:
            return (await caller.call("GET", f"/api/events/{event_id}")).status == 200

        await world.until(is_known, within_s=FOLLOWS_S)
        assert await caller.available(event_id) == 3
        again = await caller.reserve(event_id, "ann")
        assert again.status == 201
        assert again.body["id"] > booking
    await sale.count_seats()


async def test_a_cancel_on_its_way_is_seen_without_the_event_in_redis(sale: Sale) -> None:
    """Also while the ledger knows of the booking alone, or of neither."""
    event_id = await sale.open_event(3)
    partition = event_id % sale.partitions
    async with sale.caller() as caller, sale.redis() as redis:
        known = (await caller.reserve(event_id, "ann")).body["id"]
        with sale.stopped("worker"):
            new = (await caller.reserve(event_id, "bob", prefer="respond-async")).body["id"]
            for booking in (known, new):
                answer = await caller.cancel(booking, prefer="respond-async")
                assert answer.status == 202, answer
            await redis.delete(f"onsale:{{{partition}}}:event:{event_id}")
            for booking in (known, new):
                answer = await caller.read(booking)
                assert (answer.status, answer.body["code"]) == (410, "booking_cancelled"), answer
        await sale.count_seats()
