"""Hydration: an event goes on sale with exactly what the ledger has of it."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from engine import hydrate, keys, metrics
from engine.errors import Fenced, Overloaded
from engine.hydrate import Hydration
from engine.ledger import Ledger
from engine.model import MAX_EPOCH, MAX_SEQ, Number, booking_id
from engine.scripts import Scripts
from tests import world
from tests.engine.house import House, Shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.ledger import LedgerRow


def _hydrations() -> float:
    return metrics.HYDRATIONS._value.get()  # noqa: SLF001 - prometheus_client has no other way


async def _leased(shop: Shop, event_id: int) -> None:
    """Wait until somebody hydrates the event."""
    await world.until(lambda: shop.redis.exists(keys.lease(shop.partition, event_id)))


async def test_loads_the_rows(shop: Shop) -> None:
    """Of any age, also those by hand, over several pages."""
    event_id = await shop.insert_event(2000)
    await shop.sql(
        "INSERT INTO bookings (event_id, user_id) SELECT $1, 'user ' || n "
        "FROM generate_series(1, 1201) n",
        event_id,
    )
    assert await shop.warm(event_id)
    assert len(await shop.held(event_id)) == 1201
    assert await shop.agree(event_id)


@pytest.mark.parametrize("number", [Number(1, 1), Number(1, MAX_SEQ), Number(MAX_EPOCH, MAX_SEQ)])
async def test_numbers_as_the_scripts_write_them(shop: Shop, number: Number) -> None:
    """The ledger turns ids into the text that Redis holds."""
    event_id = await shop.insert_event(5)
    await shop.sql(
        "INSERT INTO bookings (id, event_id, user_id) VALUES ($1, $2, 'ann')",
        booking_id(number, shop.partition),
        event_id,
    )
    assert await shop.warm(event_id)
    users = keys.users(shop.partition, event_id)
    assert await shop.redis.hget(users, "ann") == str(number).encode()


async def test_loads_the_window(shop: Shop) -> None:
    """An event that is not open yet is loaded, so that it opens on time."""
    event_id = await shop.insert_event(5)
    await shop.sql("UPDATE events SET opens_at = '2999-01-01 00:00+00' WHERE id = $1", event_id)
    assert await shop.warm(event_id)
    assert await shop.reserve(event_id, "ann") == ["not_open 32472144000000"]


async def test_waits_for_the_mark(shop: Shop) -> None:
    """What is on its way to the ledger is there before the rows are read."""
    event_id = await shop.open_event(5, "ann")
    await shop.reserve(event_id, "bob")
    await shop.scripts.call(shop.redis, shop.scripts.close(event_id))
    warming = asyncio.create_task(shop.warm(event_id))
    await _leased(shop, event_id)
    assert not warming.done()
    await shop.drain()
    assert await warming
    assert await shop.held(event_id) == {"ann": Number(1, 1), "bob": Number(1, 2)}
    assert await shop.agree(event_id)


async def test_lease_taken_away(shop: Shop) -> None:
    """A change by hand meanwhile makes it begin again, and end with the change."""
    event_id = await shop.open_event(5)
    await shop.reserve(event_id, "ann")
    await shop.scripts.call(shop.redis, shop.scripts.close(event_id))
    warming = asyncio.create_task(shop.warm(event_id))
    await _leased(shop, event_id)
    await shop.sql("UPDATE events SET total_seats = 3 WHERE id = $1", event_id)
    await shop.scripts.call(shop.redis, shop.scripts.repair(event_id, []))
    await shop.drain()
    assert await warming
    assert await shop.agree(event_id)


async def test_change_after_the_rows_were_read(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was staged before a change by hand is never installed."""
    event_id = await shop.insert_event(5)
    staged = Hydration._stage  # noqa: SLF001 - the moment after it is what this is about
    attempts = 0

    async def then_a_hand_books(self: Hydration, *args: object) -> int | None:
        nonlocal attempts
        attempts += 1
        count: int | None = await staged(self, *args)
        if attempts == 1:
            await shop.sql("INSERT INTO bookings (event_id, user_id) VALUES ($1, 'ann')", event_id)
            await shop.scripts.call(shop.redis, shop.scripts.repair(event_id, []))
        return count

    monkeypatch.setattr(Hydration, "_stage", then_a_hand_books)
    assert await shop.warm(event_id)
    assert attempts == 2
    assert await shop.agree(event_id)


async def test_missing_event_leaves_no_key(shop: Shop) -> None:
    """Ids of events that do not exist cost Redis nothing."""
    before = await shop.snapshot()
    assert not await shop.warm(2**31 - 1)
    assert await shop.snapshot() == before


async def test_missing_event_is_remembered_until_it_appears(shop: Shop) -> None:
    """The ledger is not asked again and again; news of the event end that at once."""
    event_id = 1_000_000 + shop.partition
    assert not await shop.warm(event_id)
    statement = "INSERT INTO events (id, name, total_seats) VALUES ($1, 'x', 1)"
    await shop.sql(statement, event_id)
    assert not await shop.warm(event_id)
    shop.hydration.appeared(event_id)
    assert await shop.warm(event_id)


async def test_news_of_everything_forgets_what_was_missing(shop: Shop) -> None:
    """After news may have been missed, nothing is remembered as missing."""
    event_id = 2_000_000 + shop.partition
    assert not await shop.warm(event_id)
    await shop.sql("INSERT INTO events (id, name, total_seats) VALUES ($1, 'x', 1)", event_id)
    shop.hydration.appeared(None)
    assert await shop.warm(event_id)


async def test_memory_of_missing_events_is_bounded(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for any number of them fills no memory."""
    monkeypatch.setattr(hydrate, "MAX_MISSING", 3)
    for event_id in range(3_000_000, 3_000_010):
        await shop.warm(event_id)
    assert len(shop.hydration._missing) <= 3  # noqa: SLF001 - the bound is the promise


async def test_single_flight_in_a_process(shop: Shop) -> None:
    """Any number of callers at once load an event once."""
    event_id = await shop.insert_event(5)
    before = _hydrations()
    assert all(await asyncio.gather(*(shop.warm(event_id) for _ in range(50))))
    assert _hydrations() == before + 1


async def test_single_flight_between_processes(shop: Shop) -> None:
    """The lease lets one of them load it; the others find it warm."""
    event_id = await shop.insert_event(5)
    before = _hydrations()
    processes = [Hydration(shop.ledger, shop.redis) for _ in range(5)]
    assert all(await asyncio.gather(*(each.warm(event_id, shop.scripts) for each in processes)))
    assert _hydrations() == before + 1


async def test_warm_event_is_left_alone(shop: Shop) -> None:
    """What was sold meanwhile is not undone."""
    event_id = await shop.open_event(5)
    await shop.reserve(event_id, "ann")
    assert await shop.warm(event_id)
    assert "ann" in await shop.held(event_id)


async def test_event_deleted_meanwhile(shop: Shop) -> None:
    """It is not put on sale."""
    event_id = await shop.open_event(5)
    await shop.reserve(await shop.open_event(5), "ann")
    await shop.scripts.call(shop.redis, shop.scripts.close(event_id))
    warming = asyncio.create_task(shop.warm(event_id))
    await _leased(shop, event_id)
    await shop.sql("DELETE FROM events WHERE id = $1", event_id)
    await shop.drain()
    assert not await warming
    assert await shop.reserve(event_id, "ann") == ["cold"]


async def test_fenced(shop: Shop) -> None:
    """An epoch that is over hydrates nothing: whoever asked must recover first."""
    event_id = await shop.insert_event(5)
    with pytest.raises(Fenced):
        await shop.hydration.warm(event_id, Scripts(shop.partition, 9))


async def test_patience_ends(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody drains, the wait is bounded, and the caller is told to try again."""
    monkeypatch.setattr(hydrate, "PATIENCE_S", 0.2)
    await shop.reserve(await shop.open_event(5), "ann")
    with pytest.raises(Overloaded):
        await shop.warm(await shop.insert_event(5))


class Slow:
    """A ledger that gives no page of rows until it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.go_on = asyncio.Event(), asyncio.Event()
        self.asked: list[int] = []
        """Of which events, in order."""
        rows_after = Ledger.bookings_after

        async def when_told(ledger: Ledger, event_id: int, *args: object) -> list[LedgerRow]:
            self.asked.append(event_id)
            self.began.set()
            await self.go_on.wait()
            return await rows_after(ledger, event_id, *args)

        monkeypatch.setattr(Ledger, "bookings_after", when_told)


async def test_load_outlasts_its_callers(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited long enough is told to try again; the event is warm in the end, at once."""
    slow = Slow(monkeypatch)
    event_id = await shop.insert_event(5)
    await _begin_and_hang_up(shop, slow, event_id)
    monkeypatch.setattr(hydrate, "PATIENCE_S", 0.05)
    for _ in range(2):
        with pytest.raises(Overloaded):
            await shop.warm(event_id)
    slow.go_on.set()
    event = keys.event(shop.partition, event_id)
    await world.until(lambda: shop.redis.exists(event))
    assert slow.asked == [event_id]


async def test_load_that_nobody_waits_for_fails_in_silence(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fault is for who asks next, not for the log of the event loop."""
    slow, heard = Slow(monkeypatch), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    event_id = await shop.insert_event(5)
    await _begin_and_hang_up(shop, slow, event_id)
    await shop.redis.hset(keys.log(shop.partition), "epoch", 9)
    slow.go_on.set()
    await world.until(lambda: _nothing_under_way(shop))
    gc.collect()
    asyncio.get_running_loop().set_exception_handler(None)
    assert heard == []


async def _begin_and_hang_up(shop: Shop, slow: Slow, event_id: int) -> None:
    caller = asyncio.create_task(shop.warm(event_id))
    await slow.began.wait()
    caller.cancel()


async def _nothing_under_way(shop: Shop) -> bool:
    return not shop.hydration._under_way  # noqa: SLF001 - there is no other sign of it


async def test_most_wanted_first(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked before, the event for which the most callers wait is warm first."""
    monkeypatch.setattr(hydrate, "MAX_AT_ONCE", 1)
    hydration, order = Hydration(shop.ledger, shop.redis), []
    wanted = {await shop.insert_event(2000): callers for callers in (1, 2, 4, 3)}
    for event_id, callers in wanted.items():
        await shop.sql(
            "INSERT INTO bookings (event_id, user_id) SELECT $1, 'user ' || n "
            "FROM generate_series(1, $2::int * 400) n",
            event_id,
            callers,
        )

    async def ask(event_id: int) -> None:
        assert await hydration.warm(event_id, shop.scripts)
        if event_id not in order:
            order.append(event_id)

    await asyncio.gather(*(ask(event) for event, callers in wanted.items() for _ in range(callers)))
    assert [wanted[event_id] for event_id in order] == [4, 3, 2, 1]


async def test_waiting_for_the_mark_holds_nobody_up(
    shop: Shop, house: House, partitions: Iterator[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition that nobody drains keeps its own events cold, and no others."""
    monkeypatch.setattr(hydrate, "MAX_AT_ONCE", 1)
    hydration = Hydration(shop.ledger, shop.redis)
    await shop.reserve(await shop.open_event(5), "ann")
    event_id = await shop.insert_event(5)
    waiting = [asyncio.create_task(hydration.warm(event_id, shop.scripts)) for _ in range(9)]
    await _leased(shop, event_id)
    other = await Shop(house, next(partitions)).open()
    assert await hydration.warm(await other.insert_event(5), other.scripts)
    assert not any(task.done() for task in waiting)
    await shop.drain()
    assert all(await asyncio.gather(*waiting))


async def test_who_leaves_the_line_takes_no_turn(shop: Shop) -> None:
    """Cancelled before or after it came, a turn goes to the next in line."""
    turns = hydrate._Turns(1)  # noqa: SLF001 - nothing but a shutdown cancels a load
    load = hydrate._Load(1, shop.scripts)  # noqa: SLF001

    async def take() -> None:
        async with turns.turn(load):
            pass

    async with turns.turn(load):
        before, after, last = (asyncio.create_task(take()) for _ in range(3))
        await asyncio.sleep(0)
        before.cancel()
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    after.cancel()
    await last
    await take()


async def test_who_hangs_up_does_not_stop_the_others(shop: Shop) -> None:
    """A caller who leaves takes only himself away."""
    event_id = await shop.open_event(5)
    await shop.reserve(event_id, "ann")
    await shop.scripts.call(shop.redis, shop.scripts.close(event_id))
    leaving, staying = (asyncio.create_task(shop.warm(event_id)) for _ in range(2))
    await _leased(shop, event_id)
    leaving.cancel()
    await shop.drain()
    assert await staying
