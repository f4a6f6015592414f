"""``status``: depth and lag of each outbox, and the busiest events as both stores have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import keys
from engine.status import status
from tests.engine.house import Shop

if TYPE_CHECKING:
    from tests.engine.house import House


async def test_a_sale_that_is_not_drained(own_house: House) -> None:
    """What Redis has sold is owed; the ledger has not heard of it; both are shown."""
    shop = await Shop(own_house, 1).open()
    event_id = await shop.open_event(5, "ann")
    await shop.reserve(event_id, "bob", "cat")
    found = await status(own_house.stores, events=9)
    before, mine, after = found.partitions
    assert (mine.partition, mine.epoch, mine.state, mine.depth) == (1, 1, "open", 2)
    assert mine.lag_seconds >= 0
    assert (mine.shift, mine.holder, mine.worked) == (1, "a test", False)
    assert [each.epoch for each in (before, after)] == [0, 0]
    assert [each.depth for each in (before, after)] == [0, 0]
    (event,) = found.events
    assert event[:] == (event_id, "Чайка", 5, 1, 2, "redis", [])
    assert found.event_count == 1

    await shop.drain()
    found = await status(own_house.stores, events=9)
    assert (found.partitions[1].depth, found.partitions[1].lag_seconds) == (0, 0.0)
    assert (found.events[0].sold, found.events[0].left) == (3, 2)


async def test_the_busiest_first(own_house: House) -> None:
    """So many and no more; a cold event has the ledger's seats, one that drifted says how."""
    shop = await Shop(own_house, 1).open()
    quiet = await shop.open_event(5, "ann")
    for _ in range(2):
        await shop.insert_event(1)
    busy = await shop.open_event(5, "ann", "bob")
    await own_house.redis.hset(keys.event(1, quiet), "left", 5)
    await shop.scripts.call(shop.redis, shop.scripts.close(busy))
    found = await status(own_house.stores, events=2)
    assert [event.id for event in found.events] == [busy, quiet]
    assert [event.source for event in found.events] == ["ledger", "redis"]
    assert [event.left for event in found.events] == [3, 5]
    assert [event.drift for event in found.events] == [[], ["left"]]
    assert found.event_count == 4


async def test_a_redis_that_lost_all(own_house: House) -> None:
    """Looking recovers nothing: the partition is as it was, and its events say so."""
    shop = await Shop(own_house, 1).open()
    event_id = await shop.open_event(5, "ann")
    await own_house.redis.flushall()
    found = await status(own_house.stores, events=1)
    assert (found.events[0].id, found.events[0].drift) == (event_id, ["fenced"])
    assert (await status(own_house.stores, events=1)).partitions == found.partitions
    assert await own_house.redis.dbsize() == 0
