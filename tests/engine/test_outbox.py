"""The outbox: entries become items with numbers without a gap, and nothing else gets through."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.asyncio import Connection

from engine import keys
from engine.errors import RedisAway
from engine.model import Item, Number
from engine.outbox import Debt, Outbox, debts, items, items_beyond, reserves
from engine.wire import Wire
from tests.engine.house import as_entries
from tests.engine.test_drain import POISON, TAKEN_ANYHOW

if TYPE_CHECKING:
    from tests.engine.house import House, Shop


def _bytes(fields: dict[str, str | bytes]) -> dict[bytes, bytes]:
    return {
        name.encode(): value if isinstance(value, bytes) else value.encode()
        for name, value in fields.items()
    }


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=9))
def test_reserve_entry_is_an_item_a_user(users: list[str]) -> None:
    """The entry's id is the last item's number; the others come before it, in order."""
    fields = {"kind": "reserve", "event": "17", "at": "5", "users": json.dumps(users)}
    found = items(b"3-20", _bytes(fields))
    assert [item.user_id for item in found] == users
    assert [item.number for item in found] == [Number(3, seq) for seq in range(21 - len(users), 21)]
    assert {(item.kind, item.event_id, item.at_ms) for item in found} == {("reserve", 17, 5)}


def test_cancel_entry() -> None:
    """One item, with the booking that it ends."""
    fields = {"kind": "cancel", "event": "17", "at": "5", "users": '["ann"]', "booking": "2-8"}
    assert items(b"3-9", _bytes(fields)) == [
        Item(Number(3, 9), "cancel", 17, "ann", 5, Number(2, 8))
    ]


def test_opening_entry() -> None:
    """An epoch's first entry is no item."""
    assert items(b"3-0", {b"kind": b"open"}) == []


def test_as_many_users_as_numbers() -> None:
    """An entry may begin with number 1, and no earlier."""
    fields = {"kind": "reserve", "event": "1", "at": "5", "users": '["a","b"]'}
    assert items(b"3-2", _bytes(fields))[0].number == Number(3, 1)
    assert items(b"3-1", _bytes(fields))[0].kind == "poison"


@pytest.mark.parametrize("kind", sorted(set(POISON) - TAKEN_ANYHOW))
def test_poison(kind: str) -> None:
    """What no script writes is one item that has the entry whole."""
    fields = _bytes(POISON[kind])
    (item,) = items(b"3-7", fields)
    assert (item.kind, item.number) == ("poison", Number(3, 7))
    assert item.entry is not None
    entry = json.loads(item.entry)
    assert entry["id"] == "3-7"
    assert {
        name.encode(): value.encode(errors="surrogateescape")
        for name, value in entry["fields"].items()
    } == fields


numbers = st.integers(1, 4)
stretches = st.tuples(st.sampled_from([1, 1, 1, 0, 2]), numbers, st.integers(0, 2**31), numbers)


@given(st.lists(stretches, min_size=1, max_size=6), st.integers(1, 6))
@example([(1, 1, 1, 1), (1, 1, 0, 1), (1, 1, 0, 1)], 2)
def test_reserves_are_the_items_in_columns(
    drawn: list[tuple[int, int, int, int]], most: int
) -> None:
    """Of whole entries, at most so many; none unless all of them are plain and follow the mark."""
    mark = Number(3, 7)
    log, seq = list[Item](), mark.seq
    for step, users, event_id, at_ms in drawn:  # a step of 1 leaves no gap, and of 0 goes back
        seq += step - 1
        for _ in range(users):
            seq += 1
            log.append(Item(Number(3, seq), "reserve", event_id, f"user {seq}", at_ms))
    entries = as_entries(log)
    batch = reserves(mark, entries, most=most)
    if batch:
        found = items_beyond(Number(0, 0), entries[: batch.entries])
        columns = zip(batch.event_ids, batch.users, batch.at_ms, strict=True)
        assert list(columns) == [(each.event_id, each.user_id, each.at_ms) for each in found]
        assert [each.number for each in found] == [
            Number(3, seq) for seq in range(mark.seq + 1, batch.to.seq + 1)
        ]
        assert batch.seats == Counter(batch.event_ids)
        assert len(found) <= most
        rest = entries[batch.entries :]  # its first may be no reserve: its users count all the same
        assert not rest or len(found) + len(json.loads(rest[0][1][-1])) > most
    else:
        first, whole = (items_beyond(Number(0, 0), some) for some in (entries[:1], entries))
        follow = [Number(3, seq) for seq in range(mark.seq + 1, mark.seq + 1 + len(whole))]
        is_plain = {item.kind for item in whole} == {"reserve"}
        assert not is_plain or [item.number for item in whole] != follow or len(first) > most


@pytest.mark.parametrize("kind", sorted(POISON))
def test_poison_among_reserves(kind: str) -> None:
    """Whatever is not as the script writes it is looked at by itself."""
    plain = as_entries([Item(Number(3, 8), "reserve", 1, "ann", 5)])
    odd = [part for field in _bytes(POISON[kind]).items() for part in field]
    assert reserves(Number(3, 7), plain, most=9)
    assert reserves(Number(3, 7), [*plain, (b"3-9", odd)], most=2000) is None


async def test_reserves_of_the_script(shop: Shop) -> None:
    """What ``reserve.lua`` writes is plain."""
    event_id = await shop.open_event(9, "ann")
    mark = await shop.mark()
    for users in ("bc", "d"):
        await shop.reserve(event_id, *users)
    outbox = Outbox(shop.redis, shop.partition)
    wire = Wire(shop.redis.connection_pool)
    (reply,) = await wire.exchange(outbox.read_command(mark, count=9))
    await wire.close()
    batch = reserves(mark, outbox.read_reply(reply), most=9)
    assert batch is not None
    assert (batch.users, batch.seats) == (["b", "c", "d"], {event_id: 3})


@pytest.mark.parametrize("count", [1, 2, 9])
async def test_pages_end_where_they_are_told(shop: Shop, count: int) -> None:
    """In the middle of an entry too, and although more is sold while they are read."""
    event_id = await shop.open_event(99)
    for users in ("ab", "cd", "efg"):
        await shop.reserve(event_id, *users)
    outbox, found = Outbox(shop.redis, shop.partition), []
    async for page in outbox.pages(Number(1, 1), Number(1, 6), count=count):
        found += [item.user_id for item in page]
        await shop.reserve(event_id, f"later {len(found)}")
    assert found == [*"bcdef"]


async def test_last_number(shop: Shop) -> None:
    """That of the last entry's last item; 0-0 if somebody has emptied it."""
    outbox = Outbox(shop.redis, shop.partition)
    assert await outbox.last() == Number(1, 0)
    await shop.reserve(await shop.open_event(9), *"ab")
    assert await outbox.last() == Number(1, 2)
    await shop.redis.xtrim(keys.outbox(shop.partition), maxlen=0)
    assert await outbox.last() == Number(0, 0)


async def test_reads_after_a_number(shop: Shop) -> None:
    """Also after one that is in the middle of an entry."""
    event_id = await shop.open_event(9)
    await shop.reserve(event_id, *"abc")
    await shop.reserve(event_id, "d")
    outbox = Outbox(shop.redis, shop.partition)
    for after, users in ((0, "abcd"), (1, "bcd"), (3, "d"), (4, "")):
        found = await outbox.read(Number(1, after), count=10)
        assert "".join(item.user_id for item in found) == users


async def test_reads_at_most_so_many_entries(shop: Shop) -> None:
    """The count is of entries, each whole."""
    event_id = await shop.open_event(9)
    await shop.reserve(event_id, *"abc")
    await shop.reserve(event_id, "d")
    found = await Outbox(shop.redis, shop.partition).read(Number(1, 0), count=1)
    assert [item.user_id for item in found] == ["a", "b", "c"]


async def test_debt(shop: Shop) -> None:
    """How many numbers the ledger has not, and how long the first of them waits."""
    event_id = await shop.open_event(9, "ann")
    outbox = Outbox(shop.redis, shop.partition)
    assert await outbox.debt(await shop.mark()) == (0, 0.0)
    await shop.reserve(event_id, *"abc")
    await shop.reserve(event_id, "d")
    depth, lag_seconds = await outbox.debt(await shop.mark())
    assert depth == 4
    assert 0 <= lag_seconds < 30


async def test_debt_of_another_epoch(shop: Shop) -> None:
    """A mark of an epoch that is over says nothing of this one's debt."""
    event_id = await shop.open_event(9)
    await shop.reserve(event_id, "ann")
    outbox = Outbox(shop.redis, shop.partition)
    assert await outbox.debt(Number(0, 0)) == (0, 0.0)
    await shop.redis.delete(keys.log(shop.partition))
    assert await outbox.debt(Number(1, 0)) == (0, 0.0)


async def test_redis_away(shop: Shop) -> None:
    """It is said as what it is."""
    async with type(shop.redis).from_url("redis://127.0.0.1:1") as nowhere:
        with pytest.raises(RedisAway):
            await Outbox(nowhere, 1).read(Number(1, 0), count=1)
        with pytest.raises(RedisAway):
            await Outbox(nowhere, 1).debt(Number(1, 0))


async def test_connection_that_the_loop_has_closed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has an error of its own for it."""

    async def closed(*_: object, **__: object) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

    monkeypatch.setattr(Connection, "send_packed_command", closed)
    with pytest.raises(RedisAway):
        await Outbox(shop.redis, 1).read(Number(1, 0), count=1)
    with pytest.raises(RedisAway):
        await shop.scripts.call(shop.redis, shop.scripts.close(1))


async def test_debts_without_the_ledger(shop: Shop, house: House) -> None:
    """What each partition owes is known from Redis alone; what is drained is not owed."""
    event_id = await shop.open_event(9, "ann")
    everywhere = house.settings.partitions
    assert (await debts(house.redis, everywhere))[shop.partition] == Debt(0, 0.0)
    await shop.reserve(event_id, "bob", "cat")
    await shop.reserve(event_id, "dan")
    owed = (await debts(house.redis, everywhere))[shop.partition]
    assert owed.depth == 3
    assert 0 <= owed.lag_seconds < 60
    await shop.drain()
    assert (await debts(house.redis, everywhere))[shop.partition] == Debt(0, 0.0)


async def test_debts_of_what_a_hand_wrote(shop: Shop, house: House) -> None:
    """A log that is none is a fault, not a defect."""
    await house.redis.hset(keys.log(shop.partition), "acked", "many")
    with pytest.raises(RedisAway):
        await debts(house.redis, house.settings.partitions)
    await house.redis.hset(keys.log(shop.partition), "acked", 0)
