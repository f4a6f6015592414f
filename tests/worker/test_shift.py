"""A shift: one drains a partition at a time, and turns pass without a pause."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from engine import keys
from engine.drain import Brake
from engine.gate import Gate
from engine.model import Number
from tests import world
from tests.engine.house import crash_after_commit
from worker import drain
from worker.drain import Shift

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.engine.house import Shop


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shift that is over is not waited for."""
    monkeypatch.setattr(drain, "BLOCK_MS", 50)


@asynccontextmanager
async def _shift(shop: Shop, brake: Brake | None = None) -> AsyncIterator[asyncio.Task[None]]:
    """A shift that has begun; at the end it is over, and nothing broke it."""
    before = (await shop.ledger.partition(shop.partition)).shift
    shift = Shift(shop.house.stores, shop.partition, brake or Brake(), Gate(), holder="ann's")
    task = asyncio.create_task(shift.run())

    async def begun() -> bool:
        return (await shop.ledger.partition(shop.partition)).shift > before

    await world.until(begun)
    yield task
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _drained(shop: Shop, to: Number) -> None:
    async def reached() -> bool:
        return await shop.mark() >= to

    await world.until(reached, within_s=10)


async def test_drains_while_it_lasts(shop: Shop) -> None:
    """What is sold before it and during it."""
    event_id = await shop.open_event(5)
    (before,) = await shop.reserve(event_id, "ann")
    async with _shift(shop):
        await _drained(shop, before)
        (during,) = await shop.reserve(event_id, "bob")
        await _drained(shop, during)
    assert set(await shop.rows(event_id)) == {"ann", "bob"}


async def test_later_shift_ends_the_earlier_at_its_next_batch(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier writes nothing more; the later takes the batch."""
    monkeypatch.setattr(drain, "BLOCK_MS", 1500)
    event_id = await shop.open_event(5)
    async with _shift(shop) as earlier:
        number = await shop.ledger.begin_shift(shop.partition, "another")
        await shop.reserve(event_id, "ann")
        await asyncio.wait_for(earlier, 10)
        assert await shop.rows(event_id) == {}
        shop.shift = number
        await shop.drain()
    assert set(await shop.rows(event_id)) == {"ann"}


async def test_idle_shift_learns_that_a_later_one_began(shop: Shop) -> None:
    """Without any sale it ends too."""
    async with _shift(shop) as earlier:
        await shop.ledger.begin_shift(shop.partition, "another")
        await asyncio.wait_for(earlier, 10)


async def test_turns_pass_without_loss(shop: Shop) -> None:
    """While seats are sold: each is written once, and nobody is in another's way."""
    event_id = await shop.open_event(500)
    with capture_logs() as logs:
        async with _shift(shop), _shift(shop), _shift(shop):
            for i in range(100):
                (last,) = await shop.reserve(event_id, f"user {i}")
                if i % 25 == 0:
                    async with _shift(shop):
                        await _drained(shop, last)
            async with _shift(shop):
                await _drained(shop, last)
    assert logs == []
    assert len(await shop.rows(event_id)) == 100
    assert await shop.ended(event_id) == []
    assert await shop.agree(event_id)


async def test_ends_by_itself(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody comes for it, after its time."""
    monkeypatch.setattr(drain, "SHIFT_S", 0.05)
    async with _shift(shop) as shift:
        await asyncio.wait_for(shift, 10)


async def test_cancelled_in_a_transaction_finishes_it(shop: Shop) -> None:
    """Rows, mark and what Redis is told: all of it, and then it ends."""
    event_id = await shop.open_event(5)
    async with shop.ledger.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM events WHERE id = $1 FOR UPDATE", event_id)
        async with _shift(shop) as shift:
            (number,) = await shop.reserve(event_id, "ann")

            async def waits_for_the_event() -> bool:
                return bool(await shop.sql("SELECT FROM pg_stat_activity "
                    "WHERE wait_event_type = 'Lock' AND datname = current_database()"))  # fmt: skip

            await world.until(waits_for_the_event)
            shift.cancel()
            await transaction.rollback()
            with pytest.raises(asyncio.CancelledError):
                await shift
    assert await shop.rows(event_id) == {"ann": number}
    assert await shop.redis.hget(keys.log(shop.partition), "acked") == b"1"


async def test_dead_letters_are_counted_over_the_shifts_of_a_worker(shop: Shop) -> None:
    """The eleventh in a minute is left where it is, and what follows it too."""
    event_id, brake = await shop.open_event(50), Brake()
    *_, tenth = await shop.reserve(event_id, *(f"{i}\x00" for i in range(10)))
    async with _shift(shop, brake):
        await _drained(shop, tenth)
    await shop.reserve(event_id, "10\x00", "ann")
    async with _shift(shop, brake) as halted:
        await asyncio.wait_for(halted, 10)
    assert await shop.mark() == tenth
    async with _shift(shop, Brake()):
        await _drained(shop, tenth._replace(seq=tenth.seq + 2))


async def test_closes_its_connection(shop: Shop) -> None:
    """A worker has thousands of shifts."""

    async def connections() -> int:
        return len(await shop.redis.client_list())

    before = await connections()
    event_id = await shop.open_event(5)
    async with _shift(shop):
        (number,) = await shop.reserve(event_id, "ann")
        await _drained(shop, number)

    async def as_before() -> bool:
        return await connections() <= before

    await world.until(as_before)


async def test_makes_up_for_one_that_died(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis learns how far the ledger is, though nobody sells."""
    event_id = await shop.open_event(5)
    await shop.reserve(event_id, "ann")
    with crash_after_commit(monkeypatch):
        await shop.drain()

    async def told() -> bool:
        return bool(await shop.redis.hget(keys.log(shop.partition), "acked") == b"1")

    assert not await told()
    async with _shift(shop):
        await world.until(told)


async def test_recovers_what_it_finds_fenced(shop: Shop) -> None:
    """A Redis that lost the partition is opened again, without a sale."""
    for key in await shop.snapshot():
        await shop.redis.delete(key)
    async with _shift(shop):
        await _drained(shop, Number(2, 0))


async def test_recovers_from_a_gap(shop: Shop) -> None:
    """What is beyond it is drained, and the gap noted."""
    event_id = await shop.open_event(5)
    (lost,) = await shop.reserve(event_id, "ann")
    await shop.reserve(event_id, "bob")
    await shop.redis.xdel(keys.outbox(shop.partition), str(lost))
    async with _shift(shop):
        await _drained(shop, Number(2, 0))
    assert set(await shop.rows(event_id)) == {"bob"}
    assert await shop.fate(lost) == ("lost", None)


async def test_recovers_from_a_gap_that_nothing_follows(shop: Shop) -> None:
    """An outbox that somebody emptied is found out though nothing more is sold."""
    event_id = await shop.open_event(5)
    (lost,) = await shop.reserve(event_id, "ann")
    await shop.redis.xtrim(keys.outbox(shop.partition), maxlen=0, approximate=False)
    async with _shift(shop):
        await _drained(shop, Number(2, 0))
    assert await shop.fate(lost) == ("lost", None)


async def test_halts_for_a_person(shop: Shop) -> None:
    """Too many dead letters end the shift, and what is left waits in the outbox."""
    event_id = await shop.open_event(50)
    await shop.reserve(event_id, *(f"{i}\x00" for i in range(12)))
    async with _shift(shop) as shift:
        await asyncio.wait_for(shift, 10)
    assert len(await shop.dead()) == 10


async def test_postgres_goes_and_comes_back(shop: Shop) -> None:
    """A connection that breaks costs a moment, and no booking."""
    event_id = await shop.open_event(5)
    async with _shift(shop):
        await shop.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await shop.reserve(event_id, "ann")

        async def written() -> bool:
            return bool(await shop.rows(event_id))

        await world.until(written, within_s=10)
    assert await shop.agree(event_id)
