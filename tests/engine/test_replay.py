"""A replay is the first answer again, and is true when it is given."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from engine.confirmations import Waiters
from engine.engine import Engine
from engine.errors import Overloaded, RedisAway
from engine.model import Status, Word
from tests.engine.house import Shop, crash_after_commit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from engine.model import Booking, Number, Reservation
    from tests.engine.house import House

PATIENCE_MS = 30_000


class Stall:
    """One seat, for which ann has a pending booking made with a key."""

    def __init__(self, shop: Shop, engine: Engine, event_id: int) -> None:
        self.shop = shop
        self.engine = engine
        self.event_id = event_id

    async def ask(self, wait_ms: int = PATIENCE_MS) -> Reservation:
        """Reserve for ann, with the key."""
        return await self.engine.reserve(self.event_id, "ann", fingerprint="f", wait_ms=wait_ms)

    async def take_the_seat(self) -> None:
        """Book it for somebody else by hand."""
        statement = "INSERT INTO bookings (event_id, user_id) VALUES ($1, 'hand')"
        await self.shop.sql(statement, self.event_id)

    def before_it_is_read(
        self, monkeypatch: pytest.MonkeyPatch, happens: Callable[[int], Awaitable[object]]
    ) -> None:
        """Let something happen between the script's answer and the reading of the booking."""
        read = self.engine.booking

        async def late(booking: int) -> Booking | None:
            monkeypatch.undo()
            await happens(booking)
            return await read(booking)

        monkeypatch.setattr(self.engine, "booking", late)


@pytest.fixture
async def stall(own_house: House) -> AsyncIterator[Stall]:
    """An engine, and a drain that works when it is told to."""
    engine = await Engine.open(own_house.settings)
    shop = Shop(own_house, 0)
    event_id = await shop.insert_event(1)
    shop = await Shop(own_house, event_id % own_house.settings.partitions).open()
    stall = Stall(shop, engine, event_id)
    assert (await stall.ask(wait_ms=0)).status is Status.PENDING
    yield stall
    await engine.close()


async def test_confirmed_while_it_waits(stall: Stall, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger takes the booking: the replay too is confirmed, same id, same instant."""
    first = await stall.ask(wait_ms=0)
    asked = await _waiting(stall, monkeypatch)
    await stall.shop.drain()
    assert await asked == first._replace(status=Status.CONFIRMED)
    assert await stall.ask() == first._replace(status=Status.CONFIRMED)


async def test_refused_while_it_waits(stall: Stall, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger refuses the booking: so does the replay."""
    asked = await _waiting(stall, monkeypatch)
    await stall.take_the_seat()
    await stall.shop.drain()
    assert (await asked).word is Word.SOLD_OUT


async def test_refused_and_not_yet_given_back(
    stall: Stall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker died between its commit and the repair of Redis."""
    await stall.take_the_seat()
    with crash_after_commit(monkeypatch):
        await stall.shop.drain()
    assert (await stall.ask()).word is Word.SOLD_OUT
    assert (await stall.ask(wait_ms=0)).word is Word.SOLD_OUT


async def test_cancelled_since_redis_was_asked(
    stall: Stall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seat was his when Redis was asked: that is the answer, and no more than that."""
    stall.before_it_is_read(monkeypatch, lambda it: stall.engine.cancel(it, wait_ms=0))
    answer = await stall.ask()
    assert (answer.word, answer.status) == (Word.REPLAYED, Status.PENDING)


async def test_lost_since_redis_was_asked(stall: Stall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis has lost the booking: to try again is safe."""
    stall.before_it_is_read(monkeypatch, lambda _: stall.shop.redis.flushall())
    with pytest.raises(RedisAway):
        await stall.ask()
    assert (await stall.ask(wait_ms=0)).word is Word.RESERVED


async def _waiting(stall: Stall, monkeypatch: pytest.MonkeyPatch) -> asyncio.Task[Reservation]:
    """A replay that waits for the ledger."""
    wait, waits = Waiters.wait, asyncio.Event()

    async def noticed(waiters: Waiters, number: Number, wait_ms: int) -> Word | None:
        waits.set()
        return await wait(waiters, number, wait_ms)

    monkeypatch.setattr(Waiters, "wait", noticed)
    asked = asyncio.create_task(stall.ask())
    await waits.wait()
    return asked


async def test_row_that_a_hand_removed_unheard(stall: Stall) -> None:
    """Redis still has the booking, and nobody knows it: the event is loaded anew, then sold."""
    await stall.shop.drain()
    assert (await stall.ask()).word is Word.REPLAYED
    await stall.shop.sql(
        "DELETE FROM bookings USING (SELECT set_config('onsale.engine', 'on', true)) AS unheard "
        "WHERE event_id = $1",
        stall.event_id,
    )
    with pytest.raises(Overloaded):
        await stall.ask()
    assert (await stall.ask(wait_ms=0)).word is Word.RESERVED
