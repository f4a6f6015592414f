"""Redis or Postgres dies, or hangs, in the middle of a sale; the sale goes on by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests import world
from tests.adversity.customers import Customer, balance, rush
from tests.world import LONG

if TYPE_CHECKING:
    from bench.caller import Answer, Caller
    from tests.world import Sale

KILLS = 5 if LONG else 2
RESUMES_S = 5.0
FIRST_ANSWER_S = 3.0
AT_ONCE_S = 0.5
SEATS = 1_000_000


async def has_written(sale: Sale) -> bool:
    """Whether the append-only file has all that Redis knows."""
    async with sale.redis() as redis:
        info = await redis.info("persistence")
    return info["aof_buffer_length"] == 0 and info["aof_pending_bio_fsync"] == 0


async def crash(sale: Sale, name: str) -> None:
    """Kill a server, and return when ``onsale up`` has brought it back."""
    before = sale.pids(name)
    sale.kill(name)

    async def is_back() -> bool:
        return sale.pids(name) != before and await sale.answers(name)

    await world.until(is_back)


async def timed(caller: Caller, event_id: int, user_id: str) -> tuple[float, Answer]:
    """How long the answer to a reserve took, in seconds, and the answer."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    answer = await caller.reserve(event_id, user_id)
    return loop.time() - begun_s, answer


@pytest.mark.parametrize("name", ["redis", "postgres"])
async def test_a_server_is_killed_and_the_sale_resumes(sale: Sale, name: str) -> None:
    """Within 5 s of its return, and callers heard nothing worse than 503.

    Each 201 is in the ledger. Each 202 is too, or says that it is lost: only Redis can lose it.
    """
    event_id = await sale.open_event(SEATS)
    async with rush(sale, event_id) as crowd:
        for _ in range(KILLS):
            await crowd.sell(300)
            await crash(sale, name)
            await crowd.sell(1, within_s=RESUMES_S)
        await crowd.sell(300)
    await balance(sale, crowd.customers, may_lose=name == "redis")


async def test_while_postgres_hangs_a_known_event_is_sold(sale: Sale) -> None:
    """As 202: the first after the wait, the next at once; all are confirmed when it is back."""
    event_id = await sale.open_event(SEATS)
    made = []
    async with sale.caller() as caller:
        await Customer(caller, event_id, "before").reserve()
        with sale.stopped("postgres"):
            first_s, first = await timed(caller, event_id, "first")
            assert (first.status, first.body["status"]) == (202, "pending")
            assert first_s < FIRST_ANSWER_S
            for n in range(20):
                answer_s, answer = await timed(caller, event_id, f"user-{n}")
                assert answer.status == 202
                assert answer_s < AT_ONCE_S
                made.append(answer.body["id"])
        await sale.count_seats()
        for booking in [first.body["id"], *made]:
            assert (await caller.read(booking)).body["status"] == "confirmed"


async def test_while_postgres_is_dead_a_known_event_is_sold(sale: Sale) -> None:
    """A connection that is refused is no slower than one that hangs.

    An event that Redis does not know yet is not sold, and its callers are told when to come again.
    """
    event_id = await sale.open_event(SEATS)
    unknown = await sale.open_event(SEATS)
    async with sale.caller() as caller:
        await Customer(caller, event_id, "before").reserve()
        with sale.killed("postgres"):
            first_s, first = await timed(caller, event_id, "first")
            second_s, second = await timed(caller, event_id, "second")
            refused = await caller.reserve(unknown, "ann")
            assert (refused.status, refused.body["code"]) == (503, "ledger_unavailable")
            assert refused.headers["retry-after"]
        assert [first.status, second.status] == [202, 202]
        assert first_s < FIRST_ANSWER_S
        assert second_s < AT_ONCE_S
        await world.until(lambda: sale.answers("postgres"))
        await sale.count_seats()
        for answer in (first, second):
            assert (await caller.read(answer.body["id"])).body["status"] == "confirmed"
        await Customer(caller, unknown, "ann").reserve()
    await sale.count_seats()


async def test_a_pending_booking_that_redis_has_written_survives_its_crash(sale: Sale) -> None:
    """What is in the append-only file reaches the ledger, with no worker and no Redis left."""
    event_id = await sale.open_event(SEATS)
    async with sale.caller() as caller:
        await Customer(caller, event_id, "before").reserve()
        with sale.killed("worker"):
            made = [
                await caller.reserve(event_id, f"user-{n}", prefer="respond-async")
                for n in range(100)
            ]
            assert {answer.status for answer in made} == {202}
            await world.until(lambda: has_written(sale))
            sale.kill("redis")
        await world.until(lambda: sale.answers("redis"))
        await sale.count_seats()
        for answer in made:
            read = await caller.read(answer.body["id"])
            assert (read.status, read.body["status"]) == (200, "confirmed")


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_while_redis_is_away_the_ledger_answers_what_it_can(sale: Sale, how: str) -> None:
    """A confirmed booking is read, seats are counted by the ledger, and nothing is sold."""
    event_id = await sale.open_event(10)
    async with sale.caller() as caller:
        ann = Customer(caller, event_id, "ann")
        await ann.reserve()
        assert ann.held
        await world.until(sale.is_drained)
        away = sale.stopped("redis") if how == "stopped" else sale.killed("redis")
        with away:
            read = await caller.read(ann.held.id)
            assert (read.status, read.body["status"]) == (200, "confirmed")
            event = await caller.call("GET", f"/api/events/{event_id}")
            assert (event.status, event.body["available_seats"]) == (200, 9)
            assert event.headers["onsale-source"] == "ledger"
            refused = await caller.reserve(event_id, "bob")
            assert (refused.status, refused.body["code"]) == (503, "redis_unavailable")
            assert refused.headers["retry-after"]
        await world.until(lambda: sale.answers("redis"))
        async with asyncio.timeout(RESUMES_S):
            await Customer(caller, event_id, "bob").reserve()
        event = await caller.call("GET", f"/api/events/{event_id}")
        assert event.body["available_seats"] == 8
        assert "onsale-source" not in event.headers
    await sale.count_seats()
