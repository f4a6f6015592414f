"""A booking is read while Postgres is away: as Redis has it, if Redis can be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine import engine as engine_module
from engine.engine import Engine
from engine.errors import LedgerAway, RedisAway, Unavailable
from engine.ledger import Ledger
from engine.model import Number, Status, booking_id
from tests.engine.house import Shop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from engine.model import Fate
    from tests.engine.house import House


@pytest.fixture
async def shop(own_house: House) -> Shop:
    """The partition of the first event; it drains when it is told to."""
    return await Shop(own_house, 1).open()


@pytest.fixture
async def engine(own_house: House, shop: Shop) -> AsyncIterator[Engine]:
    """An engine over the open partition."""
    engine = await Engine.open(own_house.settings)
    yield engine
    await engine.close()


async def _ann(shop: Shop) -> tuple[int, int, Number]:
    """A drained booking of the first event: event, id and number."""
    event_id = await shop.open_event(1)
    assert event_id % shop.house.settings.partitions == shop.partition
    (number,) = await shop.reserve(event_id, "ann")
    await shop.drain()
    return event_id, booking_id(number, shop.partition), number


def _leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres does not answer any more."""

    async def fates(*_: object) -> None:
        raise LedgerAway("a test")

    monkeypatch.setattr(Ledger, "fates", fates)


async def test_held(shop: Shop, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis holds it: whether the ledger has it cannot be said."""
    event_id, booking, _ = await _ann(shop)
    _leave(monkeypatch)
    found = await engine.booking(booking)
    assert found is not None
    assert (found.event_id, found.user_id, found.status) == (event_id, "ann", Status.PENDING)


async def test_given_back(shop: Shop, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis does not hold it: it may have been cancelled, or rejected."""
    event_id, booking, number = await _ann(shop)
    await shop.cancel(event_id, "ann", number)
    _leave(monkeypatch)
    with pytest.raises(LedgerAway):
        await engine.booking(booking)


async def test_recovery_while_it_is_read(
    shop: Shop, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was pending when it was asked about; that Redis has lost it since is no cancel."""
    event_id = await shop.open_event(2)
    (number,) = await shop.reserve(event_id, "ann")
    whole = Ledger.fates

    async def fates(ledger: Ledger, partition: int, numbers: list[Number]) -> dict[Number, Fate]:
        found = await whole(ledger, partition, numbers)
        monkeypatch.undo()
        await shop.redis.flushall()
        await engine.reserve(event_id, "bob", wait_ms=0)
        return found

    monkeypatch.setattr(Ledger, "fates", fates)
    found = await engine.booking(booking_id(number, shop.partition))
    assert found is not None
    assert found.status is Status.PENDING
    again = await engine.booking(booking_id(number, shop.partition))
    assert again is not None
    assert again.status is Status.LOST


@pytest.mark.parametrize("away", [LedgerAway, RedisAway])
async def test_process_that_has_not_seen_the_servers_yet(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, away: type[Unavailable]
) -> None:
    """Without the ledger's word it has no scripts, and cannot see what is on its way in Redis."""
    event_id, booking, number = await _ann(shop)
    if away is LedgerAway:
        await shop.cancel(event_id, "ann", number)

    async def check_servers(*_: object) -> None:
        raise away("a test")

    monkeypatch.setattr(engine_module, "check_servers", check_servers)
    engine = await Engine.open(shop.house.settings)
    if away is LedgerAway:
        with pytest.raises(LedgerAway):
            await engine.booking(booking)
    else:
        found = await engine.booking(booking)
        assert found is not None
        assert found.status is Status.CONFIRMED
    await engine.close()


async def test_older_redis(shop: Shop, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was cancelled; then Redis came back as it was before, while its entry was being read."""
    event_id, booking, number = await _ann(shop)
    older = await shop.snapshot()
    await shop.cancel(event_id, "ann", number)
    await shop.drain()

    async def fates(*_: object) -> None:
        await shop.restore(older)
        raise LedgerAway("a test")

    monkeypatch.setattr(Ledger, "fates", fates)
    with pytest.raises(LedgerAway):
        await engine.booking(booking)


async def test_redis_of_an_earlier_epoch(shop: Shop, engine: Engine) -> None:
    """One that still answers beside its successor does not know what the successor gave out."""
    row = await shop.ledger.partition(shop.partition)
    await shop.sql("UPDATE partitions SET epoch = epoch + 1 WHERE p = $1", shop.partition)
    of_the_successor = Number(row.epoch + 1, 1)
    with pytest.raises(RedisAway):
        await engine.booking(booking_id(of_the_successor, shop.partition))
    of_nobody = Number(row.epoch + 2, 1)
    assert await engine.booking(booking_id(of_nobody, shop.partition)) is None
