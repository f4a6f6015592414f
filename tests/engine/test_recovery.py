"""Recovery: one opens a new epoch, what survived is in the ledger, the rest is known to be lost."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import RedisError

from engine import keys
from engine.errors import Fault, Fenced, RedisAway
from engine.model import BY_HAND, MAX_EPOCH, Number
from engine.recovery import Recovery, redis_client
from engine.scripts import source
from tests import world
from tests.engine.house import Crash, House, Shop


async def _partition(shop: Shop) -> tuple[int, bool, Number]:
    row = await shop.ledger.partition(shop.partition)
    return row.epoch, row.recovering, row.mark


async def _epochs(shop: Shop) -> list[tuple[int, int | None]]:
    found = await shop.sql(
        "SELECT epoch, closed_seq FROM epochs WHERE p = $1 ORDER BY epoch", shop.partition
    )
    return [tuple(row) for row in found]


async def _lose_scripts(shop: Shop) -> None:
    """As a restart does, for this partition: the others of the file are over."""
    await shop.redis.script_flush()


async def _make_stale(shop: Shop) -> None:
    statement = "UPDATE partitions SET changed_at = now() - interval '6 s' WHERE p = $1"
    await shop.sql(statement, shop.partition)


async def test_first_start(own_house: House) -> None:
    """An empty system is opened at epoch 1, by the same procedure."""
    shop = await Shop(own_house, 2).open()
    assert await _partition(shop) == (1, False, Number(1, 0))
    assert await _epochs(shop) == [(1, None)]
    event_id = await shop.open_event(1)
    assert await shop.reserve(event_id, "ann") == [Number(1, 1)]


async def test_restart_of_redis(own_house: House) -> None:
    """A Redis that comes back has no scripts: nothing is sold, nothing pending is lost."""
    shop = await Shop(own_house, 0).open()
    event_id = await shop.open_event(3, "ann")
    (bob,) = await shop.reserve(event_id, "bob")
    await own_house.restart_redis()
    with pytest.raises(Fenced):
        await shop.reserve(event_id, "cem")
    await shop.open()
    assert (await shop.rows(event_id))["bob"] == bob
    assert await shop.reserve(event_id, "cem") == ["cold"]
    assert await shop.warm(event_id)
    assert await shop.reserve(event_id, "ann", "cem", "dan") == [
        "already_booked 1-1",
        Number(2, 1),
        "sold_out",
    ]
    await shop.drain()
    assert await shop.agree(event_id)


async def test_file_is_rewritten_after_each_start(own_house: House) -> None:
    """Half a script at the end of the append-only file is not there to be replayed."""
    shop = await Shop(own_house, 0).open()
    await own_house.restart_redis()
    await shop.open()
    info = await shop.redis.info("persistence")
    assert info["aof_last_rewrite_time_sec"] != -1
    assert info["aof_last_bgrewrite_status"] == "ok"


async def test_flushed(shop: Shop) -> None:
    """The log has no epoch: fenced. What was pending reads as lost, what was drained stays."""
    event_id = await shop.open_event(5, "ann")
    (bob,) = await shop.reserve(event_id, "bob")
    for key in await shop.snapshot():
        await shop.redis.delete(key)
    with pytest.raises(Fenced):
        await shop.reserve(event_id, "cem")
    await shop.open()
    assert set(await shop.rows(event_id)) == {"ann"}
    assert await shop.fate(Number(1, 1)) == ("confirmed", None)
    assert await shop.fate(bob) == ("lost", None)
    assert await _epochs(shop) == [(1, 1), (2, None)]


async def test_older_redis(shop: Shop) -> None:
    """A Redis that went back in time takes nothing back from the ledger, and doubles nothing."""
    event_id = await shop.open_event(9, "ann")
    (bob,) = await shop.reserve(event_id, "bob")
    older = await shop.snapshot()
    await shop.drain()
    (cem,) = await shop.reserve(event_id, "cem")
    await shop.drain()
    (dan,) = await shop.reserve(event_id, "dan")
    await shop.restore(older)
    with pytest.raises(Fenced):
        await shop.reserve(event_id, "eve")
    await shop.open()
    assert (await shop.rows(event_id)).keys() == {"ann", "bob", "cem"}
    assert [(await shop.fate(number))[0] for number in (bob, cem, dan)] == [
        "confirmed",
        "confirmed",
        "lost",
    ]
    await shop.warm(event_id)
    assert await shop.agree(event_id)


async def test_redis_of_an_older_epoch(shop: Shop) -> None:
    """Its scripts' texts may even be there: the epoch in its log fences it."""
    event_id = await shop.open_event(9, "ann")
    older = await shop.snapshot()
    await shop.open()
    for key, value in older.items():
        await shop.redis.restore(key, 0, value, replace=True)
    with pytest.raises(Fenced):
        await shop.reserve(event_id, "bob")
    await shop.open()
    assert shop.scripts.epoch == 3
    await shop.warm(event_id)
    assert await shop.agree(event_id)


async def test_ledger_older_than_redis(shop: Shop) -> None:
    """A ledger that went back in time gives out epochs until it passes Redis's."""
    await shop.redis.hset(keys.log(shop.partition), "epoch", 3)
    await shop.open()
    assert shop.scripts.epoch == 4


async def test_survivors_are_drained(shop: Shop) -> None:
    """All that is in the outbox beyond the mark is in the ledger before the epoch opens."""
    event_id = await shop.open_event(1500)
    users = [f"user {i}" for i in range(1200)]
    for start in range(0, 1200, 300):
        await shop.reserve(event_id, *users[start : start + 300])
    await shop.cancel(event_id, users[0], Number(1, 1))
    await _lose_scripts(shop)
    async with shop.heard() as messages:
        await shop.open()
    assert (await shop.rows(event_id)).keys() == set(users[1:])
    assert messages[-1].to == (1, 1201)
    assert await _epochs(shop) == [(1, 1201), (2, None)]


async def test_poison_among_the_survivors(shop: Shop) -> None:
    """It does not stop the recovery."""
    event_id = await shop.open_event(5)
    await shop.reserve(event_id, "ann")
    await shop.write_by_hand(by="hand")
    await shop.reserve(event_id, "bob")
    await _lose_scripts(shop)
    await shop.open()
    assert set(await shop.rows(event_id)) == {"ann", "bob"}
    assert len(await shop.sql("SELECT FROM ended_bookings WHERE entry LIKE '%by%hand%'")) == 1


async def test_poison_under_a_number_that_was_given_out(shop: Shop) -> None:
    """Redis lost a booking, and a hand wrote before the recovery: that booking is lost."""
    event_id = await shop.open_event(5, "ann")
    older = await shop.snapshot()
    (bob,) = await shop.reserve(event_id, "bob")
    await shop.restore(older)
    assert await shop.write_by_hand(by="hand") == bob
    async with shop.heard() as heard:
        await shop.open()
    assert await shop.fate(bob) == ("lost", None)
    assert [(message.after, message.to) for message in heard] == [(bob, bob)]


async def test_gaps_are_noted_and_read_as_lost(shop: Shop) -> None:
    """Numbers that disappeared from the outbox are lost, those around them are not."""
    event_id = await shop.open_event(9)
    (ann,) = await shop.reserve(event_id, "ann")
    bob, cem = await shop.reserve(event_id, "bob", "cem")
    (dan,) = await shop.reserve(event_id, "dan")
    await shop.redis.xdel(keys.outbox(shop.partition), str(cem))
    await shop.open()
    gaps = await shop.sql("SELECT first_seq, last_seq FROM gaps WHERE p = $1", shop.partition)
    assert [tuple(gap) for gap in gaps] == [(2, 3)]
    assert [(await shop.fate(number))[0] for number in (ann, bob, cem, dan)] == [
        "confirmed",
        "lost",
        "lost",
        "confirmed",
    ]


async def test_nobody_is_told_that_a_gap_was_drained(shop: Shop) -> None:
    """What is published begins after the hole, so that who waits in it asks the ledger."""
    event_id = await shop.open_event(10)
    for user in ("ann", "bob", "cid", "dan"):
        await shop.reserve(event_id, user)
    await shop.redis.xdel(keys.outbox(shop.partition), "1-2")
    async with shop.heard() as heard:
        await shop.recovery.reopen(shop.partition, 1)
    assert [(message.after, message.to) for message in heard] == [((1, 2), (1, 4))]


async def test_entry_of_an_epoch_that_is_to_come(shop: Shop) -> None:
    """A hand wrote it: it is set aside, and the new epoch begins with a stream that takes it."""
    await shop.redis.xadd(keys.outbox(shop.partition), {"by": "hand"}, f"{MAX_EPOCH + 1}-7")
    await shop.open()
    event_id = await shop.open_event(1, "ann")
    assert await shop.agree(event_id)
    entry = f'%"id": "{MAX_EPOCH + 1}-7"%'
    assert len(await shop.sql("SELECT FROM ended_bookings WHERE entry LIKE $1", entry)) == 1


async def test_entry_with_a_number_of_the_epoch_that_is_opened(shop: Shop) -> None:
    """However well a hand wrote it: it is set aside, and the number is given to somebody."""
    event_id = await shop.open_event(5)
    await shop.redis.xadd(
        keys.outbox(shop.partition),
        {"kind": "reserve", "event": event_id, "at": 1, "users": '["hand"]'},
        "2-1",
    )
    await shop.open()
    await shop.warm(event_id)
    (ann,) = await shop.reserve(event_id, "ann")
    await shop.drain()
    assert ann == Number(2, 1)
    assert set(await shop.rows(event_id)) == {"ann"}
    assert await shop.fate(Number(2, 1)) == ("confirmed", None)
    dead = "SELECT id & 127 FROM ended_bookings WHERE event_id = $1 AND outcome = 'dead'"
    assert [tuple(row) for row in await shop.sql(dead, event_id)] == [(BY_HAND,)]


async def test_entry_of_an_epoch_that_was_never_opened(shop: Shop) -> None:
    """A recovery died before it was done, and a hand wrote: the older epoch's bookings stay."""
    event_id = await shop.open_event(5)
    (ann,) = await shop.reserve(event_id, "ann")
    await shop.house.ledger.advance_epoch(shop.partition, 1)
    await shop.house.ledger.give_up_recovering(shop.partition, 2)
    await shop.redis.xadd(keys.outbox(shop.partition), {"by": "hand"}, "2-1")
    await shop.recovery.reopen(shop.partition, 2)
    assert set(await shop.rows(event_id)) == {"ann"}
    assert await shop.fate(ann) == ("confirmed", None)


async def test_outbox_that_is_no_stream(shop: Shop) -> None:
    """A hand put something else in its place: the partition opens again without it."""
    event_id = await shop.open_event(2, "ann")
    await shop.redis.set(keys.outbox(shop.partition), "no stream")
    async with asyncio.timeout(15):
        await shop.open()
    await shop.warm(event_id)
    assert await shop.agree(event_id)


async def test_two_at_once(shop: Shop) -> None:
    """One opens, and the other is answered the same epoch."""
    recoveries = [Recovery(shop.ledger, shop.house.settings) for _ in range(4)]
    opened = await asyncio.gather(*(each.reopen(shop.partition, 1) for each in recoveries))
    assert opened == [2, 2, 2, 2]
    assert await _epochs(shop) == [(1, 0), (2, None)]


async def test_who_comes_late_finds_it_open(shop: Shop) -> None:
    """An epoch that is behind is not a reason to recover again."""
    await shop.open()
    assert await shop.recovery.reopen(shop.partition, 1) == 2
    assert await shop.recovery.opened(shop.partition) == 2


async def test_waits_for_one_that_is_under_way(shop: Shop) -> None:
    """A recovery that goes on is not disturbed, and ``opened`` waits for it too."""
    await shop.ledger.advance_epoch(shop.partition, 1)
    waiting = [
        asyncio.create_task(shop.recovery.reopen(shop.partition, 1)),
        asyncio.create_task(shop.recovery.opened(shop.partition)),
    ]
    done, _ = await asyncio.wait(waiting, timeout=0.2)
    assert not done
    async with shop.ledger.locked(shop.partition) as locked:
        await locked.open_epoch(shop.partition, 2, Number(1, 0))
    assert await asyncio.gather(*waiting) == [2, 2]


async def test_one_that_died_is_followed(shop: Shop) -> None:
    """Once it stands still for long, the next takes a later epoch; then the dead one is fenced."""
    await shop.ledger.advance_epoch(shop.partition, 1)
    await _make_stale(shop)
    await shop.open()
    assert shop.scripts.epoch == 3
    advance = ("EVAL", source("advance"), 1, keys.log(shop.partition), 2)
    assert await shop.redis.execute_command(*advance) == b"newer"
    assert await _epochs(shop) == [(1, 0), (3, None)]


async def test_one_that_died_after_it_drained(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it died, the next makes it whole and nothing is taken twice."""
    event_id = await shop.open_event(3)
    await shop.reserve(event_id, "ann")

    async def die(*_: object) -> None:
        raise Crash

    monkeypatch.setattr(Recovery, "_rewrite_aof", die)
    with pytest.raises(Crash):
        await shop.recovery.reopen(shop.partition, 1)
    monkeypatch.undo()
    assert set(await shop.rows(event_id)) == {"ann"}
    await _make_stale(shop)
    await shop.open()
    await shop.warm(event_id)
    assert await shop.agree(event_id)
    assert await shop.fate(Number(1, 1)) == ("confirmed", None)
    assert await shop.fate(Number(2, 1)) == ("lost", None)


async def test_redis_away(own_house: House) -> None:
    """It is said, and when Redis is back the partition opens."""
    shop = await Shop(own_house, 1).open()
    own_house.server.kill()
    with pytest.raises(RedisAway):
        await shop.recovery.reopen(1, 1)
    own_house.server.start()
    await shop.open()
    assert not (await _partition(shop))[1]


async def test_epochs_are_used_up(shop: Shop) -> None:
    """After 2¹⁴-1 epochs ids would not fit any more: nothing is opened."""
    await shop.sql("UPDATE partitions SET epoch = $2 WHERE p = $1", shop.partition, MAX_EPOCH)
    with pytest.raises(Fault, match="used up"):
        await shop.recovery.reopen(shop.partition, MAX_EPOCH)


async def test_epochs_are_not_used_up_in_minutes(shop: Shop) -> None:
    """Who is fenced again and again, by another version's recoveries, is slowed down."""
    for epoch in range(shop.scripts.epoch, 10):
        assert await shop.recovery.reopen(shop.partition, epoch) == epoch + 1
    assert await shop.ledger.advance_epoch(shop.partition, 10) is None
    await shop.sql(
        "UPDATE epochs SET opened_at = opened_at - interval '10 s' WHERE p = $1 AND epoch = 1",
        shop.partition,
    )
    assert await shop.recovery.reopen(shop.partition, 10) == 11


async def test_number_beyond_a_closed_epoch_is_lost(shop: Shop) -> None:
    """Where each epoch's log ended is kept for good."""
    await shop.open_event(5, "ann", "bob")
    await shop.open()
    await shop.open()
    assert await _epochs(shop) == [(1, 2), (2, 0), (3, None)]
    fates = [await shop.fate(Number(*n)) for n in ((1, 2), (1, 3), (2, 1), (3, 1))]
    assert [status for status, _ in fates] == ["confirmed", "lost", "lost", "pending"]


async def test_volatile_redis(own_house: House) -> None:
    """A Redis that keeps no file has none to be rewritten: recoveries do not wait for it."""
    await own_house.redis.config_set("appendonly", "no")
    assert (await Shop(own_house, 0).open()).scripts.epoch == 1


async def test_client_never_sends_twice(own_house: House) -> None:
    """A call whose answer is lost is an error, though Redis be back at once."""
    async with redis_client(own_house.settings, single_connection_client=True) as redis:
        await redis.set("answered", 0)
        own_house.server.kill()
        own_house.server.start()
        with pytest.raises(RedisError):
            await redis.incr("answered")

        async def back() -> bool:
            try:
                return bool(await redis.get("answered") == b"0")
            except RedisError:
                return False

        await world.until(back)
