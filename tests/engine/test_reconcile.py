"""Reconciliation: every kind of drift is found and mended, and what is on its way is not drift."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from engine import keys, reconcile
from engine.errors import Fenced
from engine.model import Number, booking_id
from engine.outbox import Outbox
from engine.reconcile import Reconciliation, run, suspects
from tests import world
from tests.engine.house import House, Shop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.model import Item
    from engine.reconcile import Drift
    from engine.scripts import Change


async def _release(shop: Shop, event_id: int) -> None:
    await shop.redis.hset(keys.users(shop.partition, event_id), "zoe", "1-1")


async def _release_and_dirty(shop: Shop, event_id: int) -> None:
    await _release(shop, event_id)
    await shop.redis.hincrby(keys.event(shop.partition, event_id), "left", -1)


async def _fix(shop: Shop, event_id: int) -> None:
    await shop.redis.hset(keys.users(shop.partition, event_id), "ann", "1-2")


async def _add(shop: Shop, event_id: int) -> None:
    await shop.redis.hdel(keys.users(shop.partition, event_id), "ann")
    await shop.redis.hincrby(keys.event(shop.partition, event_id), "left", 1)


async def _add_by_hand(shop: Shop, event_id: int) -> None:
    await shop.sql("INSERT INTO bookings (event_id, user_id) VALUES ($1, 'zoe')", event_id)


async def _release_by_hand(shop: Shop, event_id: int) -> None:
    await shop.sql("DELETE FROM bookings WHERE event_id = $1 AND user_id = 'ann'", event_id)


async def _total(shop: Shop, event_id: int) -> None:
    await shop.sql("UPDATE events SET total_seats = 3 WHERE id = $1", event_id)


async def _left(shop: Shop, event_id: int) -> None:
    await shop.redis.hset(keys.event(shop.partition, event_id), "left", 5)


async def _no_left(shop: Shop, event_id: int) -> None:
    await shop.redis.hdel(keys.event(shop.partition, event_id), "left")


async def _count(shop: Shop, event_id: int) -> None:
    await shop.sql("UPDATE events SET booked = 0 WHERE id = $1", event_id)


KINDS: list[tuple[Callable[[Shop, int], Awaitable[None]], list[str]]] = [
    (_release, ["left", "release"]),
    (_release_and_dirty, ["release"]),
    (_fix, ["fix"]),
    (_add, ["add"]),
    (_add_by_hand, ["add"]),
    (_release_by_hand, ["release"]),
    (_total, ["total"]),
    (_left, ["left"]),
    (_no_left, ["left"]),
    (_count, ["count"]),
]
every_kind = pytest.mark.parametrize(("spoil", "kinds"), KINDS)


async def _everything(shop: Shop, event_id: int) -> object:
    rows = await shop.sql("SELECT * FROM events WHERE id = $1", event_id)
    return await shop.snapshot(), rows, await shop.rows(event_id)


@every_kind
async def test_finds_and_mends(
    shop: Shop, spoil: Callable[[Shop, int], Awaitable[None]], kinds: list[str]
) -> None:
    """Afterwards both stores say the same, and the next run finds nothing."""
    event_id = await shop.open_event(5, "ann", "bob")
    await spoil(shop, event_id)
    checked = await shop.reconcile(event_id)
    assert checked.warm
    assert sorted(drift.kind for drift in checked.drift) == kinds
    assert await shop.agree(event_id)
    assert (await shop.reconcile(event_id)).drift == []


@every_kind
async def test_dry_run_writes_nothing(
    shop: Shop, spoil: Callable[[Shop, int], Awaitable[None]], kinds: list[str]
) -> None:
    """It finds the same, and leaves it."""
    event_id = await shop.open_event(5, "ann", "bob")
    await spoil(shop, event_id)
    before = await _everything(shop, event_id)
    checked = await shop.reconcile(event_id, dry_run=True)
    assert sorted(drift.kind for drift in checked.drift) == kinds
    assert await _everything(shop, event_id) == before


@pytest.mark.parametrize("spoil", [_release, _add, _add_by_hand, _release_by_hand, _total, _left])
async def test_quick_check_finds_what_changes_a_count(
    shop: Shop, spoil: Callable[[Shop, int], Awaitable[None]]
) -> None:
    """Counts that differ are reason enough to compare every user."""
    event_id = await shop.open_event(5, "ann", "bob")
    await spoil(shop, event_id)
    assert (await shop.reconcile(event_id, full=False)).drift
    assert await shop.agree(event_id)


@pytest.mark.parametrize("spoil", [_release, _add, _add_by_hand, _release_by_hand, _total, _left])
async def test_suspects(
    own_house: House, spoil: Callable[[Shop, int], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all events, those are looked at closely whose counts differ; page by page."""
    monkeypatch.setattr(reconcile, "LOOKED_AT_ONCE", 2)
    shop = await Shop(own_house, 1).open()
    partitions = own_house.settings.partitions
    await Shop(own_house, 0).open()
    await Shop(own_house, 2).open()
    ids = [await shop.insert_event(5) for _ in range(4 * partitions)]
    _, *warm = [event_id for event_id in ids if event_id % partitions == 1]
    for event_id in warm:
        await shop.warm(event_id)
    for event_id in warm:
        await shop.reserve(event_id, "ann", "bob")
    assert await _suspects(own_house) == warm  # on their way
    await shop.drain()
    assert await _suspects(own_house) == []
    await spoil(shop, warm[1])
    assert await _suspects(own_house) == [warm[1]]
    await shop.reconcile(warm[1], full=False)
    assert await _suspects(own_house) == []
    await shop.redis.script_flush()
    assert await _suspects(own_house) == ids


async def _suspects(house: House) -> list[int]:
    return [event_id async for event_id in suspects(house.stores)]


async def test_one_in_one_out(shop: Shop) -> None:
    """Drift that changes no count is found too, once every user is compared."""
    event_id = await shop.open_event(9, "ann", "bob")
    users = keys.users(shop.partition, event_id)
    await shop.redis.hdel(users, "ann")
    await shop.redis.hset(users, "zoe", "1-1")
    for dry_run in (True, False):
        found = (await shop.reconcile(event_id, dry_run=dry_run)).drift
        assert [(d.kind, d.user_id) for d in found] == [("add", "ann"), ("release", "zoe")]
    assert await shop.agree(event_id)


@pytest.fixture
def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """To read the users of Redis is a fault."""

    def search(*_: object) -> None:
        pytest.fail("it searched Redis")

    monkeypatch.setattr(Reconciliation, "_redis_pages", search)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("at_once", [1, 64])
async def test_what_is_on_its_way_is_counted(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, *, full: bool, at_once: int, no_search: None
) -> None:
    """While an event is sold, its counts still agree: nobody has to look at the users of Redis."""
    monkeypatch.setattr(reconcile, "ENTRIES_A_READ", at_once)
    event_id, other = await shop.open_event(9, "ann", "bob"), await shop.open_event(9)
    await shop.reserve(event_id, "cem", "dan")
    await shop.cancel(event_id, "ann", Number(1, 1))
    await shop.reserve(other, "ann", "bob", "cem")
    await shop.reserve(event_id, "eve", "fay")
    assert (await shop.reconcile(event_id, full=full)).drift == []
    await shop.drain()
    assert (await shop.reconcile(event_id, full=full)).drift == []
    assert await shop.agree(event_id)


async def test_mark_within_an_entry(shop: Shop, no_search: None) -> None:
    """A drain may end its batch in the middle of one: the rest of it is on its way."""
    event_id = await shop.open_event(9)
    await shop.reserve(event_id, "ann", "bob", "cem")
    await shop.sql(
        "INSERT INTO bookings (id, event_id, user_id) VALUES ($1, $2, 'ann')",
        booking_id(Number(1, 1), shop.partition),
        event_id,
    )
    await shop.sql("UPDATE partitions SET mark_seq = 1 WHERE p = $1", shop.partition)
    assert (await shop.reconcile(event_id)).drift == []


class UnderTheLock:
    """What is done while the partition is locked, and what happens just before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.users: list[str] = []
        self.read_after: list[Number] = []
        self.before: Callable[[], Awaitable[object]] | None = None
        judge, read = Reconciliation._judge, Outbox.read  # noqa: SLF001 - the lock is held in it

        async def recorded(outbox: Outbox, after: Number, **options: int) -> list[Item]:
            self.read_after.append(after)
            return await read(outbox, after, **options)

        async def locked(
            reconciliation: Reconciliation, *args: object, **options: object
        ) -> list[Change]:
            if self.before:
                await self.before()
            self.users += args[-1]
            self.read_after.clear()
            return await judge(reconciliation, *args, **options)

        monkeypatch.setattr(Outbox, "read", recorded)
        monkeypatch.setattr(Reconciliation, "_judge", locked)


@pytest.fixture
def under_the_lock(monkeypatch: pytest.MonkeyPatch) -> UnderTheLock:
    """Watch what a drain would have to wait for."""
    return UnderTheLock(monkeypatch)


async def test_outbox_is_read_ahead_of_the_lock(shop: Shop, under_the_lock: UnderTheLock) -> None:
    """However far the ledger is behind, a drain waits for no more than what is new."""
    event_id = await shop.open_event(99, "ann", "bob")
    for i in range(20):
        await shop.reserve(event_id, f"user {i}")
    await _add(shop, event_id)
    found = (await shop.reconcile(event_id, users=["ann"])).drift
    assert [(d.kind, d.user_id) for d in found] == [("add", "ann")]
    assert under_the_lock.read_after == []


async def test_others_sell_faster_than_it_reads(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sold after it began is none of its business: it ends, and no drain waits for it."""
    event_id, other = await shop.open_event(99, "ann"), await shop.open_event(9999)
    read, sold = Outbox.read, iter(range(9999))

    async def outsold(outbox: Outbox, after: Number, **options: int) -> list[Item]:
        await shop.reserve(other, f"user {next(sold)}")
        return await read(outbox, after, **options)

    monkeypatch.setattr(Outbox, "read", outsold)
    await shop.reserve(event_id, "bob", "cem")
    await _add(shop, event_id)
    found = (await shop.reconcile(event_id)).drift
    assert [(d.kind, d.user_id) for d in found] == [("add", "ann")]


async def test_only_drift_is_looked_at_under_the_lock(
    shop: Shop, under_the_lock: UnderTheLock
) -> None:
    """Who is on his way, and who is in both stores, makes no drain wait."""
    event_id = await shop.open_event(9, "ann", "bob", "cem")
    await shop.cancel(event_id, "bob", Number(1, 2))
    await shop.reserve(event_id, "dan", "bob")
    await _release_and_dirty(shop, event_id)
    await shop.redis.hset(keys.users(shop.partition, event_id), "cem", "1-1")
    await shop.reconcile(event_id)
    assert under_the_lock.users == ["cem", "zoe"]


async def test_cancel_just_before_the_last_look(shop: Shop, under_the_lock: UnderTheLock) -> None:
    """Redis is not locked: a user whose cancel is in the outbox by then is not brought back."""
    event_id = await shop.open_event(9, "ann", "bob")
    under_the_lock.before = lambda: shop.cancel(event_id, "ann", Number(1, 1))
    assert (await shop.reconcile(event_id, users=["ann"])).drift == []
    await shop.drain()
    assert await shop.agree(event_id)


async def test_count_is_mended_beside_a_sale(shop: Shop) -> None:
    """To count a million rows takes a while: no drain waits for it, and what it books stays."""
    event_id = await shop.open_event(9, "ann", "bob")
    await _count(shop, event_id)
    drain = await asyncpg.connect(shop.house.settings.postgres_dsn)
    async with drain.transaction():
        await drain.execute("SELECT lock_partition($1)", shop.partition)
        await drain.execute("INSERT INTO bookings (event_id, user_id) VALUES ($1, 'cem')", event_id)
        mending = asyncio.create_task(shop.ledger.mend_count(event_id))
        await world.until(lambda: _wait(shop, 1))
    await drain.close()
    assert await mending == (0, 2)
    assert await shop.ledger.count(event_id) == (3, 3)


async def test_count_is_mended_once(shop: Shop) -> None:
    """Two who find it wrong at the same time do not correct it twice."""
    event_id = await shop.open_event(9, "ann", "bob")
    await _count(shop, event_id)
    drain = await asyncpg.connect(shop.house.settings.postgres_dsn)
    async with drain.transaction():
        await drain.execute("SELECT FROM events WHERE id = $1 FOR UPDATE", event_id)
        mending = [asyncio.create_task(shop.ledger.mend_count(event_id)) for _ in range(2)]
        await world.until(lambda: _wait(shop, 2))
    await drain.close()
    assert sorted(await asyncio.gather(*mending)) == [(0, 2), (2, 2)]
    assert await shop.ledger.count(event_id) == (2, 2)


async def _wait(shop: Shop, count: int) -> bool:
    """Whether so many sessions of this ledger wait for a lock."""
    ((waiting,),) = await shop.sql(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return waiting == count


async def test_named_users_alone(shop: Shop) -> None:
    """Who is not named is not looked at."""
    event_id = await shop.open_event(9, "ann", "bob")
    await shop.sql(
        "INSERT INTO bookings (event_id, user_id) VALUES ($1, 'yan'), ($1, 'zoe')", event_id
    )
    checked = await shop.reconcile(event_id, users=["zoe", "ann"])
    assert [(drift.kind, drift.user_id) for drift in checked.drift] == [("add", "zoe")]
    assert "yan" not in await shop.held(event_id)


async def test_event_that_is_gone(shop: Shop) -> None:
    """Redis sells no more of what the ledger does not have."""
    event_id = await shop.open_event(5)
    await shop.sql("DELETE FROM events WHERE id = $1", event_id)
    assert [drift.kind for drift in (await shop.reconcile(event_id)).drift] == ["gone"]
    assert await shop.reserve(event_id, "ann") == ["cold"]


async def test_name_is_followed_without_drift(shop: Shop) -> None:
    """A new name is no difference of seats, and is in Redis afterwards."""
    event_id = await shop.open_event(5)
    await shop.sql("UPDATE events SET name = 'Дядя Ваня' WHERE id = $1", event_id)
    assert (await shop.reconcile(event_id)).drift == []
    name = await shop.redis.hget(keys.event(shop.partition, event_id), "name")
    assert name.decode() == "Дядя Ваня"


async def test_cold_event(shop: Shop) -> None:
    """There is nothing to compare; a hydration under way begins again."""
    event_id = await shop.insert_event(5)
    lease = keys.lease(shop.partition, event_id)
    await shop.redis.set(lease, "somebody's")
    assert await shop.reconcile(event_id) == (False, [])
    assert not await shop.redis.exists(lease)


async def test_dry_run_disturbs_no_hydration(shop: Shop) -> None:
    """It leaves the lease where it is."""
    event_id = await shop.insert_event(5)
    lease = keys.lease(shop.partition, event_id)
    await shop.redis.set(lease, "somebody's")
    await shop.reconcile(event_id, dry_run=True)
    assert await shop.redis.exists(lease)


async def test_reserve_on_its_way(shop: Shop) -> None:
    """A booking beyond the mark is not in the ledger yet: that is no drift."""
    event_id = await shop.open_event(5, "ann")
    await shop.reserve(event_id, "bob")
    before = await shop.snapshot()
    assert (await shop.reconcile(event_id)).drift == []
    assert await shop.snapshot() == before
    await shop.drain()
    assert await shop.agree(event_id)


async def test_named_user_on_his_way(shop: Shop) -> None:
    """A hand touched his row while his booking is beyond the mark: it is left to the drain."""
    event_id = await shop.open_event(5)
    await shop.reserve(event_id, "ann")
    assert (await shop.reconcile(event_id, users=["ann"])).drift == []
    assert set(await shop.held(event_id)) == {"ann"}
    await shop.sql("INSERT INTO bookings (event_id, user_id) VALUES ($1, 'ann')", event_id)
    assert (await shop.reconcile(event_id, users=["ann"])).drift == []
    await shop.drain()
    assert await shop.agree(event_id)


async def test_cancel_on_its_way(shop: Shop) -> None:
    """A row whose cancel is beyond the mark is not brought back."""
    event_id = await shop.open_event(5, "ann")
    await shop.cancel(event_id, "ann", Number(1, 1))
    assert (await shop.reconcile(event_id)).drift == []
    assert await shop.held(event_id) == {}
    await shop.drain()
    assert await shop.agree(event_id)


async def test_rebooking_on_its_way(shop: Shop) -> None:
    """A user whose row is about to be replaced is left alone."""
    event_id = await shop.open_event(5, "ann")
    await shop.cancel(event_id, "ann", Number(1, 1))
    await shop.reserve(event_id, "ann")
    assert (await shop.reconcile(event_id)).drift == []
    await shop.drain()
    assert await shop.agree(event_id)


async def test_drift_beside_what_is_on_its_way(shop: Shop) -> None:
    """One user's entry hides no other's drift."""
    event_id = await shop.open_event(9, "ann", "bob")
    await shop.reserve(event_id, "cem")
    await shop.cancel(event_id, "bob", Number(1, 2))
    await _add(shop, event_id)
    checked = await shop.reconcile(event_id)
    assert [(drift.kind, drift.user_id) for drift in checked.drift] == [("add", "ann")]
    await shop.drain()
    assert await shop.agree(event_id)


async def test_sells_and_drains_meanwhile(shop: Shop) -> None:
    """On an event that is being sold it cries no wolf and undoes no sale."""
    event_id = await shop.open_event(2000)

    async def sell() -> None:
        for i in range(60):
            (number, *_) = await shop.reserve(event_id, *(f"{i} {j}" for j in range(10)))
            await shop.cancel(event_id, f"{i} 0", number)
            if i % 3 == 0:
                await shop.drain()

    selling = asyncio.create_task(sell())
    drift = []
    while not selling.done():
        drift += (await shop.reconcile(event_id)).drift
    await selling
    await shop.drain()
    assert drift == []
    assert len(await shop.rows(event_id)) == 540
    assert await shop.agree(event_id)


async def test_many_pages(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drift on every page is mended, and no user is passed over."""
    monkeypatch.setattr(reconcile, "READ_AT_ONCE", 20)
    monkeypatch.setattr(reconcile, "MAX_BATCH", 20)
    event_id = await shop.open_event(2000, *(f"user {i}" for i in range(500)))
    users = keys.users(shop.partition, event_id)
    await shop.redis.hdel(users, *(f"user {i}" for i in range(0, 500, 7)))
    await shop.redis.hset(users, mapping={f"ghost {i}": "1-1" for i in range(300)})
    found = [drift.kind for drift in (await shop.reconcile(event_id)).drift]
    assert (found.count("add"), found.count("release")) == (72, 300)
    assert await shop.agree(event_id)


async def test_few_are_looked_at_under_one_lock(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is drained meanwhile: whoever waits for the ledger must not wait for all of them."""
    looked_at: list[int] = []
    mend = Reconciliation._mend  # noqa: SLF001 - what it does, it does under one lock

    async def noted(self: Reconciliation, event_id: int, travellers: Any, users: list[str],
                    **how: Any) -> list[Drift]:  # fmt: skip
        looked_at.append(len(users))
        return await mend(self, event_id, travellers, users, **how)

    monkeypatch.setattr(Reconciliation, "_mend", noted)
    event_id = await shop.open_event(2000, *(f"user {i}" for i in range(500)))
    users = keys.users(shop.partition, event_id)
    await shop.redis.hdel(users, *(f"user {i}" for i in range(250)))
    await shop.redis.hset(users, mapping={f"ghost {i}": "1-1" for i in range(250)})
    assert len((await shop.reconcile(event_id)).drift) == 500
    assert max(looked_at) == reconcile.LOCKED_AT_ONCE == 100
    assert await shop.agree(event_id)


async def test_cancel_while_it_judges(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives his seat back between two of its reads does not get it again."""
    event_id = await shop.open_event(5, "ann")
    (ann,) = (await shop.rows(event_id)).values()
    read = Reconciliation._held  # noqa: SLF001 - nowhere else is there a way between the reads

    async def cancelled_first(self: Reconciliation, *args: Any) -> dict[str, str] | None:
        await shop.cancel(event_id, "ann", ann)
        return await read(self, *args)

    monkeypatch.setattr(Reconciliation, "_held", cancelled_first)
    checked = await shop.reconcile(event_id, users=["ann"])
    assert checked.drift == []
    assert await shop.held(event_id) == {}
    await shop.drain()
    assert await shop.agree(event_id)


@pytest.mark.parametrize("named", [["ann"], None])
@pytest.mark.parametrize("dry_run", [True, False])
async def test_event_is_closed_while_it_judges(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, named: list[str] | None, *, dry_run: bool
) -> None:
    """Nobody holds anything of a cold event: that is no difference."""
    event_id = await shop.open_event(5, "ann")
    read = Reconciliation._held  # noqa: SLF001 - nowhere else is there a way between the reads

    async def closed_first(self: Reconciliation, *args: Any) -> dict[str, str] | None:
        await shop.scripts.call(shop.redis, shop.scripts.close(event_id))
        return await read(self, *args)

    monkeypatch.setattr(Reconciliation, "_held", closed_first)
    checked = await shop.reconcile(event_id, users=named, dry_run=dry_run)
    assert checked.drift == []


async def test_nothing_is_drained_while_it_judges(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is the same from its first read to its repair."""
    event_id = await shop.open_event(5, "ann")
    read = Reconciliation._held  # noqa: SLF001 - nowhere else is there a way between the reads
    drains: list[asyncio.Task[None]] = []

    async def drain_waits() -> bool:
        return bool(await shop.sql(
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()"
        ))  # fmt: skip

    async def while_another_drains(self: Reconciliation, *args: Any) -> dict[str, str] | None:
        drains.append(asyncio.create_task(shop.drain()))
        await world.until(drain_waits)
        return await read(self, *args)

    await shop.reserve(event_id, "bob")
    monkeypatch.setattr(Reconciliation, "_held", while_another_drains)
    assert (await shop.reconcile(event_id, users=["ann"])).drift == []
    await asyncio.gather(*drains)
    assert set(await shop.rows(event_id)) == {"ann", "bob"}
    assert await shop.agree(event_id)


async def test_window_follows_the_ledger(shop: Shop) -> None:
    """When an event is sold is said in the ledger alone; that Redis lags is no drift."""
    event_id = await shop.open_event(5)
    for changed, answer in (
        ("opens_at = '2999-01-01 00:00+00'", "not_open 32472144000000"),
        ("opens_at = NULL, closes_at = '1999-01-01 00:00+00'", "closed"),
    ):
        await shop.sql(f"UPDATE events SET {changed} WHERE id = $1", event_id)  # noqa: S608
        assert (await shop.reconcile(event_id)).drift == []
        assert await shop.reserve(event_id, "ann") == [answer]
    await shop.sql("UPDATE events SET closes_at = NULL WHERE id = $1", event_id)
    await shop.reconcile(event_id)
    assert await shop.reserve(event_id, "ann") == [Number(1, 1)]


async def test_cut_below_what_is_sold_is_refused_by_the_ledger(shop: Shop) -> None:
    """The ledger never has more rows than seats, so Redis cannot be told to."""
    event_id = await shop.open_event(5, "ann", "bob")
    await shop.reserve(event_id, "cem")
    await shop.sql("UPDATE events SET total_seats = 2 WHERE id = $1", event_id)
    await shop.reconcile(event_id)
    assert await shop.reserve(event_id, "dan") == ["sold_out"]
    await shop.drain()
    assert await shop.agree(event_id)


async def test_fenced(shop: Shop) -> None:
    """In a recovery nothing is compared."""
    event_id = await shop.open_event(5, "ann")
    await shop.ledger.advance_epoch(shop.partition, 1)
    with pytest.raises(Fenced):
        await shop.reconcile(event_id)


async def test_run_looks_at_every_event(own_house: House) -> None:
    """Warm or cold; it sums up, and a dry run leaves it for the next one."""
    shops = [await Shop(own_house, p).open() for p in (1, 2, 0)]
    first, second = [await shop.open_event(5, "ann") for shop in shops[:2]]
    await shops[0].insert_event(5)
    await _add(shops[0], first)
    report = await run(own_house.settings, [], dry_run=True)
    assert (report.events, report.warm) == (3, 2)
    assert [str(drift) for drift in report.drift] == [
        f"event {first}, user 'ann': the ledger has booking 1-1, Redis has none"
    ]
    assert (await run(own_house.settings, [second], dry_run=False)).drift == []
    assert len((await run(own_house.settings, [first], dry_run=False)).drift) == 1
    assert await shops[0].agree(first)


async def test_run_on_a_redis_that_lost_everything(own_house: House) -> None:
    """A dry run says so and recovers nothing; another one recovers."""
    shop = await Shop(own_house, 1).open()
    event_id = await shop.open_event(5, "ann")
    await own_house.redis.flushall()
    report = await run(own_house.settings, [event_id], dry_run=True)
    assert [drift.kind for drift in report.drift] == ["fenced"]
    assert await own_house.redis.dbsize() == 0
    assert (await run(own_house.settings, [event_id], dry_run=False)).drift == []
    assert (await own_house.ledger.partition(1)).epoch == 2
