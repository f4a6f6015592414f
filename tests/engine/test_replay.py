"""A replay is the first answer again, and is true when it is given; a key makes one booking."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from engine import keys
from engine.confirmations import Waiters
from engine.engine import Engine
from engine.idempotency import DAY_S, partition_of, request_of
from engine.model import Reservation, Status, Word
from tests.engine.house import Shop, crash_after_commit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from engine.model import Booking, Number
    from tests.engine.house import House

PATIENCE_MS = 30_000
KEY = "0a"


class Stall:
    """One seat, for which ann has a pending booking made with a key."""

    def __init__(self, shop: Shop, engine: Engine, event_id: int) -> None:
        self.shop = shop
        self.engine = engine
        self.event_id = event_id

    async def ask(self, wait_ms: int = PATIENCE_MS) -> Reservation:
        """Reserve for ann, with the key."""
        return await self.engine.reserve(self.event_id, "ann", fingerprint=KEY, wait_ms=wait_ms)

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
    """The seat was his when Redis was asked; the answer is as it is when it is given."""
    stall.before_it_is_read(monkeypatch, lambda it: stall.engine.cancel(it, wait_ms=0))
    answer = await stall.ask()
    assert (answer.word, answer.status) == (Word.REPLAYED, Status.CANCELLED)


async def test_late_after_a_cancel(stall: Stall) -> None:
    """It books nothing, wherever the cancel is, whoever has the seat by now."""
    first = await stall.ask(wait_ms=0)
    cancelled = first._replace(status=Status.CANCELLED)
    await stall.engine.cancel(first.booking_id, wait_ms=0)
    assert await stall.ask() == cancelled
    await stall.shop.drain()
    assert await stall.ask() == cancelled
    again = await stall.engine.reserve(stall.event_id, "ann", wait_ms=0)
    assert again.word is Word.RESERVED
    assert await stall.ask() == cancelled
    await stall.engine.cancel(again.booking_id, wait_ms=0)
    assert (await stall.engine.reserve(stall.event_id, "bob", wait_ms=0)).word is Word.RESERVED
    assert await stall.ask() == cancelled


async def test_late_after_a_cancel_and_a_recovery(stall: Stall) -> None:
    """The record is no part of an epoch."""
    first = await stall.ask(wait_ms=0)
    await stall.engine.cancel(first.booking_id, wait_ms=0)
    await stall.shop.redis.script_flush()
    assert await stall.ask(wait_ms=0) == first._replace(status=Status.CANCELLED)


async def test_lost_since_redis_was_asked(stall: Stall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis has lost the booking, and the record with it: he books anew."""
    stall.before_it_is_read(monkeypatch, lambda _: stall.shop.redis.flushall())
    assert (await stall.ask(wait_ms=0)).word is Word.RESERVED


async def test_lost_and_on_record(stall: Stall) -> None:
    """A hand emptied the outbox, not the records. Nobody has the seat: he books anew, once."""
    first = await stall.ask(wait_ms=0)
    await stall.shop.redis.xtrim(keys.outbox(stall.shop.partition), maxlen=0, approximate=False)
    answers = await asyncio.gather(*(stall.ask(wait_ms=0) for _ in range(5)))
    assert sorted(answer.word for answer in answers) == [*[Word.REPLAYED] * 4, Word.RESERVED]
    (booking,) = {answer.booking_id for answer in answers}
    assert booking > first.booking_id


async def test_refused_later_is_judged_anew(stall: Stall) -> None:
    """The ledger refused what was pending; once the seat is back there is nothing to repeat."""
    await stall.take_the_seat()
    await stall.shop.drain()
    await stall.shop.reconcile(stall.event_id)
    assert (await stall.ask(wait_ms=0)).word is Word.SOLD_OUT
    await stall.shop.sql("UPDATE events SET total_seats = 2 WHERE id = $1", stall.event_id)
    await stall.shop.reconcile(stall.event_id)
    assert (await stall.ask(wait_ms=0)).word is Word.RESERVED


@pytest.mark.parametrize("junk", ["", "x", "3-", "0-0", "1-1|f"])
async def test_what_a_hand_wrote_is_no_record(stall: Stall, junk: str) -> None:
    """It names no booking: it is taken away, and the call is judged as it would be without it."""
    partition = stall.event_id % stall.shop.house.settings.partitions
    record = keys.record(partition, request_of("0b", stall.event_id, "bob"))
    await stall.shop.redis.set(record, junk)
    asked = await stall.engine.reserve(stall.event_id, "bob", fingerprint="0b", wait_ms=0)
    assert asked.word is Word.SOLD_OUT
    assert await stall.shop.redis.get(record) is None


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
    assert (await stall.ask(wait_ms=0)).word is Word.RESERVED


class TestClaim:
    """Which request a key stands for."""

    async def test_other_request(self, stall: Stall) -> None:
        """Another user or another event, of whatever partition: refused, and nothing is decided."""
        others = [await stall.shop.insert_event(1) for _ in range(3)]
        for event_id, user in [(stall.event_id, "bob"), *((other, "ann") for other in others)]:
            asked = await stall.engine.reserve(event_id, user, fingerprint=KEY, wait_ms=0)
            assert asked == Reservation(Word.KEY_REUSED)
        assert (await stall.ask(wait_ms=0)).word is Word.REPLAYED

    async def test_also_after_a_refusal(self, stall: Stall) -> None:
        """A key stands for its request whatever the answer was."""
        event_id = await stall.shop.insert_event(1)
        reserve = partial(stall.engine.reserve, fingerprint="0b", wait_ms=0)
        assert (await reserve(stall.event_id, "bob")).word is Word.SOLD_OUT
        assert (await reserve(event_id, "bob")).word is Word.KEY_REUSED
        assert (await reserve(stall.event_id, "bob")).word is Word.SOLD_OUT

    async def test_for_a_day(self, stall: Stall) -> None:
        """A key is free again when its claim has expired; the old request's record is not asked."""
        settings, redis = stall.shop.house.settings, stall.shop.redis
        claim = keys.claim(partition_of(KEY, settings.partitions), KEY)
        assert DAY_S - 60 < await redis.ttl(claim) <= DAY_S
        await redis.delete(claim)
        event_id = await stall.shop.insert_event(1)
        asked = await stall.engine.reserve(event_id, "ann", fingerprint=KEY, wait_ms=0)
        assert asked.word is Word.RESERVED
        assert (await stall.ask(wait_ms=0)).word is Word.KEY_REUSED

    async def test_who_dies_after_it(self, stall: Stall) -> None:
        """A claim without a decision is no obstacle: the same request goes on."""
        event_id = await stall.shop.insert_event(1)
        claim = keys.claim(partition_of("0c", stall.shop.house.settings.partitions), "0c")
        await stall.shop.redis.set(claim, request_of("0c", event_id, "bob"))
        asked = await stall.engine.reserve(event_id, "bob", fingerprint="0c", wait_ms=0)
        assert asked.word is Word.RESERVED

    async def test_without_a_key_nothing_is_kept(self, stall: Stall) -> None:
        """Who sends none pays nothing."""
        event_id = await stall.shop.insert_event(1)
        await stall.engine.event(event_id)
        before = {*await stall.shop.redis.keys()}
        assert (await stall.engine.reserve(event_id, "bob", wait_ms=0)).word is Word.RESERVED
        new = {*await stall.shop.redis.keys()} - before
        assert new == {keys.users(event_id % 3, event_id).encode()}


async def test_twenty_at_once_get_one_booking(stall: Stall) -> None:
    """Simultaneous retries, some of them in one batch: one grant, nineteen replays of it."""
    event_id = await stall.shop.insert_event(5)
    asked = (stall.engine.reserve(event_id, "bob", fingerprint="0d", wait_ms=0) for _ in range(20))
    answers = await asyncio.gather(*asked)
    assert sorted(answer.word for answer in answers) == [*[Word.REPLAYED] * 19, Word.RESERVED]
    assert len({answer[1:] for answer in answers}) == 1
    event = await stall.engine.event(event_id)
    assert event is not None
    assert event.available_seats == 4
