"""What a hand does to Redis: ``onsale reconcile`` finds it, names it and mends it.

What a hand removes altogether needs no mending: the engine sees it, and loads it again from the
ledger.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

from tests import world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.world import Sale

USERS = ("ann", "bob", "cid")
TOTAL = 10


class Sold:
    """An event whose bookings are all in the ledger, and its keys in Redis."""

    def __init__(self, sale: Sale, event_id: int, bookings: dict[str, int]) -> None:
        self.sale = sale
        self.id = event_id
        self.bookings = bookings
        tag = f"onsale:{{{event_id % sale.partitions}}}"
        self.log = f"{tag}:log"
        self.outbox = f"{tag}:outbox"
        self.event = f"{tag}:event:{event_id}"
        self.users = f"{self.event}:users"


Edit = Callable[[Redis, Sold], Awaitable[None]]


async def sell(sale: Sale, count: int = 1) -> list[Sold]:
    """Events with three bookings each, all of them in the ledger."""
    sold = []
    async with sale.caller() as caller:
        for _ in range(count):
            event_id = await sale.open_event(TOTAL)
            made = [await caller.reserve(event_id, user) for user in USERS]
            assert {answer.status for answer in made} <= {201, 202}
            ids = [answer.body["id"] for answer in made]
            sold.append(Sold(sale, event_id, dict(zip(USERS, ids, strict=True))))
    await sale.count_seats()
    return sold


@asynccontextmanager
async def by_hand(sale: Sale) -> AsyncIterator[Redis]:
    """A person's redis-cli while no worker can be quicker to mend what the person does."""
    with sale.stopped("worker"):
        async with sale.redis() as redis:
            yield redis


async def reconcile(sale: Sale, *options: str) -> tuple[int, set[tuple[int, str, str | None]]]:
    """Run the command: its exit code, and the event, kind and user of each difference."""
    done = await asyncio.to_thread(sale.onsale, "reconcile", "--json", *options)
    assert "Traceback" not in done.stderr, done.stderr
    drift = json.loads(done.stdout)["drift"]
    return done.returncode, {(each["event_id"], each["kind"], each["user_id"]) for each in drift}


async def drop_a_user(redis: Redis, sold: Sold) -> None:
    """HDEL of who has a booking."""
    await redis.hdel(sold.users, "ann")


async def add_a_stranger(redis: Redis, sold: Sold) -> None:
    """HSET of who has none, with a number that was given out."""
    number = await redis.hget(sold.users, "ann")
    await redis.hset(sold.users, "mallory", number)


async def add_a_stranger_with_no_number(redis: Redis, sold: Sold) -> None:
    """HSET of who has none, with what is no number at all."""
    await redis.hset(sold.users, "mallory", "x")


async def swap_a_number(redis: Redis, sold: Sold) -> None:
    """HSET of another booking's number."""
    await redis.hset(sold.users, "ann", await redis.hget(sold.users, "bob"))


async def free_seats(redis: Redis, sold: Sold) -> None:
    """HSET of more seats than are left."""
    await redis.hset(sold.event, "left", TOTAL)


async def spoil_seats(redis: Redis, sold: Sold) -> None:
    """HSET of what is no count."""
    await redis.hset(sold.event, "left", "many")


async def remove_left(redis: Redis, sold: Sold) -> None:
    """HDEL of the seats that are left."""
    await redis.hdel(sold.event, "left")


async def enlarge(redis: Redis, sold: Sold) -> None:
    """HSET of more seats than the ledger has, in both fields, so that they add up."""
    await redis.hset(sold.event, mapping={"total": TOTAL + 5, "left": TOTAL + 5 - len(USERS)})


async def open_at_no_instant(redis: Redis, sold: Sold) -> None:
    """HSET of an opening that is a number to Lua, and no time to anybody."""
    await redis.hset(sold.event, "opens", "1e20")


async def delete_users(redis: Redis, sold: Sold) -> None:
    """DEL of all who have a seat."""
    await redis.delete(sold.users)


async def miscount_in_the_ledger(_: Redis, sold: Sold) -> None:
    """UPDATE of the count that the triggers keep."""
    await sold.sale.sql("UPDATE events SET booked = booked + 1 WHERE id = $1", sold.id)


FINDINGS: dict[Edit, set[tuple[str, str | None]]] = {
    drop_a_user: {("left", None), ("add", "ann")},
    add_a_stranger: {("left", None), ("release", "mallory")},
    add_a_stranger_with_no_number: {("left", None), ("release", "mallory")},
    swap_a_number: {("fix", "ann")},
    free_seats: {("left", None)},
    spoil_seats: {("left", None)},
    remove_left: {("left", None)},
    enlarge: {("total", None)},
    open_at_no_instant: {("left", None)},
    delete_users: {("left", None), *(("add", user) for user in USERS)},
    miscount_in_the_ledger: {("count", None)},
}


async def test_every_edit_is_found_named_and_mended(sale: Sale) -> None:
    """A dry run exits with 1 and changes nothing, the run with 0, the next dry run with 0.

    Each edit is made in an event of its own.
    """
    sold = await sell(sale, len(FINDINGS))
    async with by_hand(sale) as redis:
        drift = set()
        for (edit, found), each in zip(FINDINGS.items(), sold, strict=True):
            await edit(redis, each)
            drift |= {(each.id, kind, user) for kind, user in found}
        edited = await sale.digest()
        assert await reconcile(sale, "--dry-run") == (1, drift)
        assert await sale.digest() == edited
        assert await reconcile(sale) == (0, drift)
        assert await reconcile(sale, "--dry-run") == (0, set())
    await sale.count_seats()


async def test_only_the_events_that_are_named_are_compared(sale: Sale) -> None:
    """And only they are mended."""
    one, other = await sell(sale, 2)
    async with by_hand(sale) as redis:
        for each in (one, other):
            await swap_a_number(redis, each)
        assert await reconcile(sale, str(one.id)) == (0, {(one.id, "fix", "ann")})
        assert await reconcile(sale) == (0, {(other.id, "fix", "ann")})
    await sale.count_seats()


async def test_an_event_that_the_ledger_does_not_have_is_found_and_closed(sale: Sale) -> None:
    """Its kind is ``gone``, and it needs its id: the ledger does not know of it."""
    event_id = await sale.open_event(TOTAL)
    async with sale.caller() as caller:
        assert await caller.available(event_id) == TOTAL
        async with by_hand(sale):
            await sale.sql("DELETE FROM events WHERE id = $1", event_id)
            gone = {(event_id, "gone", None)}
            assert await reconcile(sale, "--dry-run", str(event_id)) == (1, gone)
            assert await reconcile(sale, str(event_id)) == (0, gone)
            assert await reconcile(sale, "--dry-run", str(event_id)) == (0, set())
        assert (await caller.reserve(event_id, "ann")).status == 404


async def test_a_run_without_json_says_each_difference_in_a_sentence(sale: Sale) -> None:
    """And ends with a line that counts them."""
    (sold,) = await sell(sale)
    async with by_hand(sale) as redis:
        await swap_a_number(redis, sold)
        done = await asyncio.to_thread(sale.onsale, "reconcile", "--dry-run")
        sentence, total = done.stdout.splitlines()
        assert f"event {sold.id}, user 'ann'" in sentence
        assert total.endswith("drift found: 1")
        assert await reconcile(sale) == (0, {(sold.id, "fix", "ann")})


async def go_on(sale: Sale, sold: list[Sold]) -> None:
    """Sell on: what was 201 is in the ledger, readable and refused; new ids are new."""
    await asyncio.gather(*(sell_out(sale, each) for each in sold))
    await sale.count_seats()
    assert (await sale.reconcile()).returncode == 0


async def sell_out(sale: Sale, sold: Sold) -> None:
    """Sell what is left of one event."""
    async with sale.caller() as caller:
        for user, booking in sold.bookings.items():
            refused = await caller.reserve(sold.id, user)
            assert (refused.status, refused.body["booking_id"]) == (409, booking)
            read = await caller.read(booking)
            assert (read.status, read.body["status"]) == (200, "confirmed")
        made = [await caller.reserve(sold.id, f"user-{n}") for n in range(TOTAL)]
        left = TOTAL - len(USERS)
        assert {answer.status for answer in made[:left]} <= {201, 202}
        assert {answer.body.get("code") for answer in made[left:]} == {"sold_out"}
        ids = {answer.body["id"] for answer in made[:left]}
        assert len(ids) == left
        assert min(ids) > max(sold.bookings.values())
        await world.until(sale.is_drained)
        for booking in ids:
            assert (await caller.read(booking)).body["status"] == "confirmed"


async def test_sales_go_on_after_a_deletion_of_any_key(sale: Sale) -> None:
    """Of the event's keys, and of a partition's log and outbox, alone and together."""
    sold = await sell(sale, 3 * sale.partitions)
    zero, one, two, three = ([e for e in sold if e.id % sale.partitions == p] for p in range(4))
    keys = [zero[0].event, zero[1].users, zero[2].event, zero[2].users]
    keys += [one[0].log, two[0].outbox, three[0].log, three[0].outbox]
    async with sale.redis() as redis:
        assert await redis.delete(*keys) == len(keys)
    await go_on(sale, sold)


async def test_sales_go_on_after_a_flush(sale: Sale) -> None:
    """Nothing that was answered 201 needed Redis."""
    sold = await sell(sale, sale.partitions)
    async with sale.redis() as redis:
        await redis.flushall()
    await go_on(sale, sold)


async def test_sales_go_on_after_the_scripts_are_forgotten(sale: Sale) -> None:
    """As after a restart."""
    sold = await sell(sale, sale.partitions)
    async with sale.redis() as redis:
        await redis.script_flush()
    await go_on(sale, sold)


async def test_a_pending_booking_that_a_flush_takes_is_lost_and_says_so(sale: Sale) -> None:
    """410 ``booking_lost``, never a silent 404; its id is never given out again."""
    (sold,) = await sell(sale)
    async with sale.caller() as caller:
        with sale.killed("worker"):  # one that is only stopped may have read the entry
            pending = await caller.reserve(sold.id, "late", prefer="respond-async")
            assert pending.status == 202
            async with sale.redis() as redis:
                await redis.flushall()
        lost = await caller.read(pending.body["id"])
        assert (lost.status, lost.body["code"]) == (410, "booking_lost")
        again = await caller.reserve(sold.id, "late")
        assert again.status in (201, 202)
        assert again.body["id"] > pending.body["id"]
        assert (await caller.read(pending.body["id"])).status == 410
    await sale.count_seats()


async def test_a_dry_run_after_a_flush_names_it_and_recovers_nothing(sale: Sale) -> None:
    """The run itself opens a new epoch; then Redis has nothing, and says nothing that is wrong."""
    await sell(sale)
    async with by_hand(sale) as redis:
        await redis.flushall()
        flushed = await sale.digest()
        events = {row["id"] for row in await sale.sql("SELECT id FROM events")}
        fenced = {(event_id, "fenced", None) for event_id in events}
        assert await reconcile(sale, "--dry-run") == (1, fenced)
        assert await sale.digest() == flushed
        assert await reconcile(sale) == (0, set())
        assert await reconcile(sale, "--dry-run") == (0, set())


@pytest.mark.parametrize(
    "named",
    [
        {"redis_url": "redis://127.0.0.1:1/0"},
        {"database_url": "postgresql://onsale@127.0.0.1:1/onsale"},
    ],
    ids=["Redis", "Postgres"],
)
async def test_without_a_server_reconcile_says_so_in_one_line(
    sale: Sale, named: dict[str, str]
) -> None:
    """And exits with 2."""
    elsewhere = copy.copy(sale)
    vars(elsewhere).update(named)
    done = await asyncio.to_thread(elsewhere.onsale, "reconcile", "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("onsale: ")
    assert "does not answer" in line


@pytest.mark.parametrize("name", ["redis", "postgres"])
async def test_with_a_server_that_hangs_reconcile_gives_up(sale: Sale, name: str) -> None:
    """In the same words."""
    with sale.stopped(name):
        done = await asyncio.to_thread(sale.onsale, "reconcile", "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "does not answer" in line
