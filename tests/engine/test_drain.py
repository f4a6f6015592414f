"""The drain: exactly once, in order, and what the ledger cannot take does not stop the rest."""

from __future__ import annotations

import json

import pytest

from engine import drain as drain_module
from engine import keys
from engine.drain import Drain
from engine.errors import Fenced, Gap, Halted, LedgerAway, RedisAway, Superseded
from engine.ledger import Ledger
from engine.model import Number, booking_id
from tests.engine.house import Shop, crash_after_commit


async def test_entries_become_rows(shop: Shop) -> None:
    """With the numbers, the users and the time that Redis gave them."""
    event_id = await shop.open_event(5)
    ann, bob = await shop.reserve(event_id, "ann", "bob")
    assert await shop.drain() == bob
    assert await shop.rows(event_id) == {"ann": ann, "bob": bob}
    assert await shop.agree(event_id)
    ((at_ms,),) = await shop.sql(
        "SELECT (extract(epoch FROM created_at) * 1000)::bigint FROM bookings WHERE id = $1",
        booking_id(ann, shop.partition),
    )
    _, fields = (await shop.redis.xrevrange(keys.outbox(shop.partition), count=1))[0]
    assert at_ms == int(fields[b"at"])


async def test_nothing_to_drain(shop: Shop) -> None:
    """The mark stays where it is."""
    assert await shop.drain() == Number(shop.scripts.epoch, 0)


async def test_cancel_moves_the_row_to_the_ended(shop: Shop) -> None:
    """The seat is free in the ledger too."""
    event_id = await shop.open_event(1, "ann")
    await shop.cancel(event_id, "ann", (await shop.rows(event_id))["ann"])
    await shop.drain()
    assert await shop.ended(event_id) == [("ann", "cancelled", None)]
    assert await shop.agree(event_id)


async def test_cancel_and_rebook_in_one_batch(shop: Shop) -> None:
    """A batch is its entries in order: the seat goes from hand to hand."""
    event_id = await shop.open_event(1)
    (first,) = await shop.reserve(event_id, "ann")
    await shop.cancel(event_id, "ann", first)
    (second,) = await shop.reserve(event_id, "bob")
    await shop.cancel(event_id, "bob", second)
    (third,) = await shop.reserve(event_id, "ann")
    await shop.drain()
    assert await shop.rows(event_id) == {"ann": third}
    assert await shop.ended(event_id) == [("ann", "cancelled", None), ("bob", "cancelled", None)]


async def test_plain_batch_is_one_statement(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancels too, of what was there before and of the batch's own: nothing is locked apart."""
    event_id = await shop.open_event(9, "ann", "bob")
    await shop.cancel(event_id, "ann", (await shop.rows(event_id))["ann"])
    again, cem = await shop.reserve(event_id, "ann", "cem")
    await shop.cancel(event_id, "cem", cem)

    def locked(*_: object) -> None:
        pytest.fail("it looked at each entry")

    monkeypatch.setattr(Ledger, "locked", locked)
    await shop.drain()
    monkeypatch.undo()
    assert (await shop.rows(event_id))["ann"] == again
    assert await shop.ended(event_id) == [("ann", "cancelled", None), ("cem", "cancelled", None)]
    assert await shop.agree(event_id)


async def test_cancel_of_what_a_hand_removed(shop: Shop) -> None:
    """It ends nothing, and stops nobody else of its batch."""
    event_id = await shop.open_event(9, "ann", "bob")
    rows = await shop.rows(event_id)
    await shop.sql("DELETE FROM bookings WHERE event_id = $1 AND user_id = 'ann'", event_id)
    for user in ("ann", "bob"):
        await shop.cancel(event_id, user, rows[user])
    await shop.reserve(event_id, "cem")
    await shop.drain()
    assert await shop.ended(event_id) == [("bob", "cancelled", None)]
    assert await shop.agree(event_id)


async def test_crash_between_commit_and_publish(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed is not taken twice, and the next drain goes on after it."""
    event_id = await shop.open_event(5)
    await shop.reserve(event_id, "ann", "bob")
    stale = await shop.mark()
    with crash_after_commit(monkeypatch):
        await shop.drain()
    assert len(await shop.rows(event_id)) == 2
    (cem,) = await shop.reserve(event_id, "cem")
    again = Drain(shop.partition, ledger=shop.ledger, redis=shop.redis)
    assert await again.once(shop.scripts, stale, shift=shop.shift, block_ms=1) == cem
    await again.close()
    assert await shop.ended(event_id) == []
    assert await shop.agree(event_id)


async def test_same_batch_twice(shop: Shop) -> None:
    """A drain that reads from an old mark changes nothing."""
    event_id = await shop.open_event(5)
    old = await shop.mark()
    await shop.reserve(event_id, "ann")
    await shop.drain()
    async with shop.heard() as messages:
        await shop.drains.once(shop.scripts, old, shift=shop.shift, block_ms=1)
    assert messages == []
    assert await shop.agree(event_id)


async def test_entry_larger_than_a_transaction(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry may be taken in parts; a crash between them loses and doubles nothing."""
    monkeypatch.setattr(drain_module, "MAX_ITEMS", 3)
    event_id = await shop.open_event(9)
    await shop.reserve(event_id, *"abcdefgh")
    with crash_after_commit(monkeypatch):
        await shop.drain()
    assert len(await shop.rows(event_id)) == 3
    await shop.drain()
    assert await shop.agree(event_id)


async def test_gap(shop: Shop) -> None:
    """A number that is missing stops the drain before anything beyond it is believed."""
    event_id = await shop.open_event(5, "ann")
    (lost,) = await shop.reserve(event_id, "bob")
    await shop.reserve(event_id, "cem")
    await shop.redis.xdel(keys.outbox(shop.partition), str(lost))
    with pytest.raises(Gap):
        await shop.drain()
    assert set(await shop.rows(event_id)) == {"ann"}


async def test_entry_of_a_later_epoch_is_a_gap(shop: Shop) -> None:
    """Only a recovery goes from one epoch to the next."""
    await shop.redis.xadd(keys.outbox(shop.partition), {"kind": "reserve"}, "9-1")
    with pytest.raises((Gap, Superseded)):
        await shop.drain()


async def test_later_shift_supersedes(shop: Shop) -> None:
    """The row that a drain locks says whose turn it is."""
    event_id = await shop.open_event(5)
    await shop.reserve(event_id, "ann")
    mine, shop.shift = shop.shift, await shop.ledger.begin_shift(shop.partition, "another")
    with pytest.raises(Superseded):
        await shop.drains.once(shop.scripts, await shop.mark(), shift=mine, block_ms=1)
    assert await shop.rows(event_id) == {}
    await shop.drain()
    assert await shop.agree(event_id)


async def test_recovery_supersedes(shop: Shop) -> None:
    """A drain of an epoch that is over writes nothing, and goes on in the next."""
    event_id = await shop.open_event(5)
    await shop.reserve(event_id, "ann")
    await shop.ledger.advance_epoch(shop.partition, shop.scripts.epoch)
    with pytest.raises(Fenced):
        await shop.drain()
    assert await shop.rows(event_id) == {}


WHOLE = {"kind": "reserve", "event": "1", "at": "1763816400123", "users": '["x"]'}
POISON = {
    "nothing known": {"by": "hand"},
    "unknown kind": {**WHOLE, "kind": "refund"},
    "no kind": {k: v for k, v in WHOLE.items() if k != "kind"},
    "event is no number": {**WHOLE, "event": "Swan Lake"},
    "event beyond an integer": {**WHOLE, "event": str(2**40)},
    "time is no number": {**WHOLE, "at": "noon"},
    "time beyond all times": {**WHOLE, "at": "9" * 18},
    "time beyond all numbers": {**WHOLE, "at": "9" * 400},
    "users are no list": {**WHOLE, "users": '"x"'},
    "users are no JSON": {**WHOLE, "users": "x"},
    "no users": {**WHOLE, "users": "[]"},
    "more users than numbers": {**WHOLE, "users": json.dumps(["x"] * 1000)},
    "a user is a number": {**WHOLE, "users": "[1]"},
    "a user is half a character": {**WHOLE, "users": r'["\ud800"]'},
    "bytes that are no text": {**WHOLE, "users": b'["\xff"]'},
    "cancel of two": {**WHOLE, "kind": "cancel", "users": '["x","y"]', "booking": "1-1"},
    "cancel of nothing": {**WHOLE, "kind": "cancel"},
    "cancel of no number": {**WHOLE, "kind": "cancel", "booking": "x"},
    "cancel beyond all numbers": {**WHOLE, "kind": "cancel", "booking": f"{10**30}-{10**30}"},
    "open within an epoch": {"kind": "open"},
}
TAKEN_ANYHOW = {"cancel beyond all numbers"}  # it ends a booking that never came to be: nothing


@pytest.mark.parametrize("fields", POISON.values(), ids=POISON)
async def test_poison_is_set_aside_whole(shop: Shop, fields: dict[str, str | bytes]) -> None:
    """What no script can have written is a dead letter, and what is around it goes on."""
    event_id = await shop.open_event(5)
    await shop.reserve(event_id, "ann")
    number = await shop.write_by_hand(**fields)
    await shop.reserve(event_id, "bob")
    await shop.drain()
    assert set(await shop.rows(event_id)) == {"ann", "bob"}
    if fields not in [POISON[kind] for kind in TAKEN_ANYHOW]:
        (dead,) = await shop.sql(
            "SELECT entry FROM ended_bookings WHERE outcome = 'dead' "
            "AND created_at >= (SELECT created_at FROM events WHERE id = $1)",
            event_id,
        )
        assert str(number.seq) in dead["entry"]


async def test_dead_letter_has_the_entry(shop: Shop) -> None:
    """Every field is in it, also bytes that are no text."""
    await shop.write_by_hand(by="hand", what=b"\xff\x00|")
    await shop.drain()
    found = await shop.sql("SELECT entry FROM ended_bookings ORDER BY ended_at DESC LIMIT 1")
    entry = json.loads(found[0]["entry"])
    assert entry["fields"]["by"] == "hand"
    assert entry["fields"]["what"].encode(errors="surrogateescape") == b"\xff\x00|"


@pytest.mark.parametrize("user", ["nul \x00", "x" * 256, ""])
async def test_user_that_the_ledger_refuses(shop: Shop, user: str) -> None:
    """He is a dead letter, his seat is free again, and who waits is told."""
    event_id = await shop.open_event(5)
    async with shop.heard() as messages:
        ann, odd, bob = await shop.reserve(event_id, "ann", user, "bob")
        await shop.drain()
    assert await shop.rows(event_id) == {"ann": ann, "bob": bob}
    assert await shop.agree(event_id)
    assert [row["id"] for row in await shop.dead()] == [booking_id(odd, shop.partition)]
    assert [r for message in messages for r in message.rejected] == [(*odd, "dead")]
    fates = await shop.ledger.fates(shop.partition, [odd])
    assert fates[odd].status == "rejected"


async def test_halving_finds_each(shop: Shop) -> None:
    """Several in one batch are found, and every other item is written."""
    users = [f"user {i}" for i in range(40)]
    users[7] = users[7] + "\x00"
    users[23] = "x" * 300
    event_id = await shop.open_event(40)
    await shop.reserve(event_id, *users)
    await shop.drain()
    assert len(await shop.rows(event_id)) == 38
    assert len(await shop.dead()) == 2
    assert await shop.agree(event_id)


async def test_eleven_dead_in_a_minute_halt(shop: Shop) -> None:
    """Then the fault is more likely ours, and a person must look."""
    event_id = await shop.open_event(50)
    await shop.reserve(event_id, *(f"{i}\x00" for i in range(11)))
    with pytest.raises(Halted):
        await shop.drain()
    assert len(await shop.dead()) == 10


async def test_ten_dead_in_a_minute_do_not(shop: Shop) -> None:
    """Ten are set aside."""
    event_id = await shop.open_event(50)
    await shop.reserve(event_id, *(f"{i}\x00" for i in range(10)), "ann")
    await shop.drain()
    assert set(await shop.rows(event_id)) == {"ann"}


async def test_event_that_was_deleted(shop: Shop) -> None:
    """Its bookings are rejected, and Redis sells no more of it."""
    event_id = await shop.open_event(5)
    (ann,) = await shop.reserve(event_id, "ann")
    await shop.sql("DELETE FROM events WHERE id = $1", event_id)
    async with shop.heard() as messages:
        await shop.drain()
    assert messages[0].rejected == [(*ann, "event_not_found")]
    assert await shop.ended(event_id) == [("ann", "rejected", "event_not_found")]
    assert await shop.reserve(event_id, "bob") == ["cold"]


async def test_duplicate_of_a_row_by_hand(shop: Shop) -> None:
    """The hand was first: Redis gets its booking."""
    event_id = await shop.open_event(5)
    (ann,) = await shop.reserve(event_id, "ann")
    await shop.sql("INSERT INTO bookings (event_id, user_id) VALUES ($1, 'ann')", event_id)
    async with shop.heard() as messages:
        await shop.drain()
    assert messages[0].rejected == [(*ann, "already_booked")]
    assert (await shop.held(event_id))["ann"].epoch == 0
    assert await shop.agree(event_id)


async def test_full_after_a_cut(shop: Shop) -> None:
    """Who was last is rejected, and is not in Redis any more."""
    event_id = await shop.open_event(5)
    ann, bob = await shop.reserve(event_id, "ann", "bob")
    await shop.sql("UPDATE events SET total_seats = 1 WHERE id = $1", event_id)
    async with shop.heard() as messages:
        await shop.drain()
    assert messages[0].rejected == [(*bob, "sold_out")]
    assert await shop.rows(event_id) == {"ann": ann} == await shop.held(event_id)


async def test_rebooked_before_the_rejection_came(shop: Shop) -> None:
    """Compare-and-set: a later booking of the same user is not the one that was rejected."""
    event_id = await shop.open_event(5)
    (first,) = await shop.reserve(event_id, "ann")
    await shop.sql("UPDATE events SET total_seats = 0 WHERE id = $1", event_id)
    mark = await shop.mark()
    read = await shop.drains._outbox.read(mark, count=1)  # noqa: SLF001 - the batch as it was
    await shop.cancel(event_id, "ann", first)
    await shop.reserve(event_id, "ann")
    taking = shop.drains._take(read, epoch=shop.scripts.epoch, shift=shop.shift)  # noqa: SLF001
    (taken,) = [each async for each in taking]
    await shop.drains._tell(shop.scripts, taken)  # noqa: SLF001
    assert "ann" in await shop.held(event_id)
    await shop.drain()
    assert await shop.rows(event_id) == {} == await shop.held(event_id)


async def test_publishes_stretches_that_follow(shop: Shop) -> None:
    """Each message begins where the last one ended."""
    event_id = await shop.open_event(9)
    start = await shop.mark()
    async with shop.heard() as messages:
        for user in "abc":
            await shop.reserve(event_id, user)
            await shop.drain()
    ends = [start, *(Number(*message.to) for message in messages)]
    assert [Number(*message.after) for message in messages] == ends[:-1]
    assert ends[-1] == await shop.mark()


async def test_tells_redis_how_far_it_is_and_keeps_a_tail(shop: Shop) -> None:
    """``acked`` is the mark; what was drained last can still be read."""
    event_id = await shop.open_event(9, *"abc")
    assert int(await shop.redis.hget(keys.log(shop.partition), "acked")) == 3
    assert await shop.redis.xlen(keys.outbox(shop.partition)) == 2
    assert await shop.agree(event_id)


async def test_stores_that_are_away(shop: Shop) -> None:
    """Redis or Postgres away is said as what it is; afterwards the same batch goes through."""
    event_id = await shop.open_event(5)
    await shop.reserve(event_id, "ann")
    away = Shop(
        shop.house._replace(ledger=type(shop.ledger)("postgresql://x@127.0.0.1:1/x")),
        shop.partition,
    )
    with pytest.raises(LedgerAway):
        await away.drains.once(shop.scripts, await shop.mark(), shift=shop.shift, block_ms=1)
    nowhere = type(shop.redis).from_url("redis://127.0.0.1:1", socket_timeout=1)
    no_redis = Drain(shop.partition, ledger=shop.ledger, redis=nowhere)
    with pytest.raises(RedisAway):
        await no_redis.once(shop.scripts, await shop.mark(), shift=shop.shift, block_ms=1)
    await nowhere.aclose()
    await shop.drain()
    assert await shop.agree(event_id)
