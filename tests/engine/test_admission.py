"""Admission: what arrives while a call is in flight goes together in the next, within bounds."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import ConnectionPool, Redis

from engine import keys, metrics
from engine.admission import Decision, Lane
from engine.errors import Dirty, Fenced, Overloaded, RedisAway
from engine.model import ALWAYS, MAX_BATCH, MAX_MS, Number, Window, Word
from engine.road import MAX_CALLS_A_WRITE, Road
from engine.scripts import Look
from tests import world
from tests.engine.house import Shop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.engine.house import House


@asynccontextmanager
async def _road(shop: Shop, *, timeout_ms: int = 5000) -> AsyncIterator[Road]:
    road = Road(
        ConnectionPool.from_url(shop.house.settings.redis_dsn, socket_timeout=timeout_ms / 1000)
    )
    yield road
    await road.close()


def _on(road: Road, shop: Shop, *, outbox_bound: int = 100_000, queue_bound: int = 10_000) -> Lane:
    """The lane of a partition that is open."""
    lane = Lane(shop.partition, road, outbox_bound=outbox_bound, queue_bound=queue_bound)
    lane.adopt(shop.scripts.epoch)
    return lane


@asynccontextmanager
async def _lane(shop: Shop, *, timeout_ms: int = 5000, **bounds: int) -> AsyncIterator[Lane]:
    async with _road(shop, timeout_ms=timeout_ms) as road:
        yield _on(road, shop, **bounds)


def _reserve(
    lane: Lane, event_id: int, user_id: str, request: str = ""
) -> asyncio.Future[Decision | None]:
    answer: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
    lane.reserve(event_id, user_id, answer, request)
    return answer


class Pause:
    """Redis takes no call that writes, until it is told to go on."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def begin(self) -> None:
        """From now on calls stay in flight."""
        await self._redis.execute_command("CLIENT PAUSE", 60_000, "WRITE")

    async def in_flight(self) -> None:
        """Wait until a call is."""

        async def blocked() -> bool:
            return bool((await self._redis.info("clients"))["blocked_clients"])

        await world.until(blocked)

    async def end(self) -> None:
        """Go on."""
        await self._redis.execute_command("CLIENT UNPAUSE")

    async def cut(self) -> None:
        """Close every connection but this one."""
        await self._redis.execute_command("CLIENT KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.fixture
async def pause(house: House) -> AsyncIterator[Pause]:
    """A way to hold calls in flight."""
    async with Redis.from_url(house.settings.redis_dsn, single_connection_client=True) as redis:
        pause = Pause(redis)
        yield pause
        await pause.end()


async def _batches(shop: Shop) -> list[int]:
    """How many items each entry of the outbox has."""
    ids = [entry for entry, _ in await shop.redis.xrange(keys.outbox(shop.partition))]
    seqs = [Number.parse(entry).seq for entry in ids]
    return [later - earlier for earlier, later in pairwise(seqs)]


async def test_one_call_for_one(shop: Shop) -> None:
    """An idle engine adds no delay: a request goes at once, alone."""
    event_id = await shop.open_event(5)
    async with _lane(shop) as lane:
        first = await _reserve(lane, event_id, "ann")
        second = await _reserve(lane, event_id, "bob", "r")
        assert [first[:2], second[:2]] == [
            (Word.RESERVED, Number(1, 1)),
            (Word.RESERVED, Number(1, 2)),
        ]
        assert await _reserve(lane, event_id, "ann") == Decision(Word.ALREADY_BOOKED, Number(1, 1))
        assert await _reserve(lane, event_id, "bob", "r") == Decision(Word.REPLAYED, Number(1, 2))
    assert await _batches(shop) == [1, 1]


async def test_one_look_for_all_who_look(shop: Shop, pause: Pause) -> None:
    """Whoever looks while a call is in flight is told, of his event, what the next call sees."""
    event_id, other = await shop.open_event(5), await shop.open_event(7)
    async with _lane(shop) as lane:
        await pause.begin()
        first = _reserve(lane, event_id, "ann")
        await pause.in_flight()
        before = await _looks(shop)
        looks = [lane.look(each) for each in (event_id, other, event_id, other, event_id)]
        looks[2].cancel()
        await pause.end()
        await first
        seen = await asyncio.gather(*looks, return_exceptions=True)
        assert [look.left for look in seen if isinstance(look, Look)] == [4, 7, 7, 4]
        assert await _looks(shop) == before + 2


async def _looks(shop: Shop) -> int:
    """How often `look` was called: it alone asks how many users there are, and for a name."""
    stats = await shop.redis.info("commandstats")
    return int(stats["cmdstat_hlen"]["calls"]) - int(stats["cmdstat_time"]["calls"])


async def test_gather_while_a_call_is_in_flight(shop: Shop, pause: Pause) -> None:
    """All of them are the next call, in their order."""
    event_id = await shop.open_event(100)
    async with _lane(shop) as lane:
        await pause.begin()
        first = _reserve(lane, event_id, "first")
        await pause.in_flight()
        others = [_reserve(lane, event_id, f"user {i}") for i in range(50)]
        await pause.end()
        decisions = await asyncio.gather(first, *others)
    assert [decision.number.seq for decision in decisions] == list(range(1, 52))
    assert await _batches(shop) == [1, 50]


async def test_outcomes_are_counted(shop: Shop) -> None:
    """Each user of a batch, by what Redis decided of him."""

    def counted() -> dict[Word, float]:
        (family,) = metrics.RESERVATIONS.collect()
        return {
            Word(sample.labels["outcome"]): sample.value
            for sample in family.samples
            if sample.name.endswith("_total")
        }

    before = counted()
    event_id = await shop.open_event(2, "ann")
    early, late = await shop.open_event(9), await shop.open_event(9)
    for shut, window in ((early, Window(MAX_MS)), (late, Window(None, 0))):
        await shop.scripts.call(shop.redis, shop.scripts.repair(shut, [], window=window))
    async with _lane(shop) as lane:
        assert await _reserve(lane, early, "ann") == Decision(Word.NOT_OPEN, at_ms=MAX_MS)
        assert await _reserve(lane, late, "ann") == Decision(Word.CLOSED)
        users = ("ann", "bob", "bob", "cem", "dan")
        await asyncio.gather(*(_reserve(lane, event_id, user, f"of {user}") for user in users))
        claims = [await lane.claim("key", request) for request in ("one", "one", "other")]
        assert claims == [True, True, False]
    after = counted()
    assert {word: after[word] - before[word] for word in after} == {
        Word.NOT_OPEN: 1,
        Word.CLOSED: 1,
        Word.RESERVED: 1,
        Word.REPLAYED: 1,
        Word.ALREADY_BOOKED: 1,
        Word.SOLD_OUT: 2,
        Word.KEY_REUSED: 1,
    }


async def test_five_hundred_and_one(shop: Shop, pause: Pause) -> None:
    """A call takes five hundred; the last one goes in the next."""
    event_id = await shop.open_event(1000)
    async with _lane(shop) as lane:
        await pause.begin()
        first = _reserve(lane, event_id, "first")
        await pause.in_flight()
        others = [_reserve(lane, event_id, f"user {i}") for i in range(501)]
        await pause.end()
        decisions = await asyncio.gather(first, *others)
    assert [decision.number.seq for decision in decisions] == list(range(1, 503))
    assert await _batches(shop) == [1, 500, 1]


async def test_events_go_in_one_write(shop: Shop) -> None:
    """Each event's callers get their own event's answer."""
    events = [await shop.open_event(seats) for seats in (0, 1, 2)]
    async with _lane(shop) as lane:
        asked = [_reserve(lane, event, user) for user in ("ann", "bob") for event in events]
        words = [decision.word for decision in await asyncio.gather(*asked)]
    full, got = Word.SOLD_OUT, Word.RESERVED
    assert words == [full, got, got, full, full, got]


async def test_queue_at_its_bound(shop: Shop, pause: Pause) -> None:
    """One more is refused at once, whatever it asks for; those who wait are served."""
    event_id = await shop.open_event(100)
    async with _lane(shop, queue_bound=3) as lane:
        await pause.begin()
        waiting = [_reserve(lane, event_id, "first")]
        await pause.in_flight()
        waiting += [_reserve(lane, event_id, user) for user in ("a", "b")]
        waiting.append(lane.look(event_id))
        for ask in (
            lambda: _reserve(lane, event_id, "c"),
            lambda: lane.cancel(event_id, "a", Number(1, 1)),
            lambda: lane.look(event_id),
            lambda: lane.find(Number(1, 1)),
        ):
            with pytest.raises(Overloaded):
                ask()
        await pause.end()
        await asyncio.gather(*waiting)
        assert (await _reserve(lane, event_id, "c")).word is Word.RESERVED


async def test_outbox_at_its_bound(shop: Shop) -> None:
    """Reserves end at the bound; cancels have a tenth more."""
    event_id = await shop.open_event(100)
    async with _lane(shop, outbox_bound=10) as lane:
        users = [f"user {i}" for i in range(10)]
        given = [await _reserve(lane, event_id, user) for user in users]
        with pytest.raises(Overloaded):
            await _reserve(lane, event_id, "late")
        cancelled = await lane.cancel(event_id, users[0], given[0].number)
        assert cancelled == Decision(Word.CANCELLED, Number(1, 11))
        with pytest.raises(Overloaded):
            await lane.cancel(event_id, users[1], given[1].number)


async def test_lost_answer(shop: Shop, pause: Pause) -> None:
    """Everyone in flight is told that Redis is away; nothing is sent twice; the next call works."""
    event_id = await shop.open_event(100)
    async with _lane(shop) as lane:
        await pause.begin()
        asked = [_reserve(lane, event_id, user) for user in "abc"]
        await pause.in_flight()
        await pause.cut()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in answers] == [RedisAway] * 3
        await pause.end()
        assert (await _reserve(lane, event_id, "d")).number == Number(1, 1)
    assert await _batches(shop) == [1]


async def test_answer_in_time_or_not_at_all(shop: Shop, pause: Pause) -> None:
    """A Redis that hangs is away after the time-out, and works again afterwards."""
    event_id = await shop.open_event(100)
    async with _lane(shop, timeout_ms=50) as lane:
        await pause.begin()
        with pytest.raises(RedisAway):
            await _reserve(lane, event_id, "a")
        await pause.end()

        async def works() -> Any:
            try:
                return await _reserve(lane, event_id, "b")
            except RedisAway:
                return None

        await world.until(works)


async def test_close_answers_everyone(shop: Shop, pause: Pause) -> None:
    """In flight or queued: nobody waits for ever."""
    event_id = await shop.open_event(100)
    async with _road(shop) as road:
        lane = _on(road, shop)
        await pause.begin()
        asked = [_reserve(lane, event_id, "first")]
        await pause.in_flight()
        asked += [_reserve(lane, event_id, "second"), lane.look(event_id)]
        await road.close()
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [RedisAway] * 3


async def test_before_it_is_open(shop: Shop) -> None:
    """Without an epoch there is nobody to ask."""
    async with _road(shop) as road:
        lane = Lane(shop.partition, road, outbox_bound=1, queue_bound=1)
        with pytest.raises(RedisAway):
            _reserve(lane, 1, "ann")
        with pytest.raises(RedisAway):
            lane.look(1)


async def test_lanes_share_a_road(
    house: House, partitions: Iterator[int], shop: Shop, pause: Pause
) -> None:
    """What is for several partitions goes together, in turn; what befalls one harms no other."""
    other = await Shop(house, next(partitions)).open()
    mine, theirs = await shop.open_event(300), await other.open_event(2)
    async with _road(shop) as road:
        lanes = _on(road, shop), _on(road, other)
        await other.redis.hset(keys.log(other.partition), "epoch", "0")
        await pause.begin()
        first = _reserve(lanes[0], mine, "first")
        await pause.in_flight()
        many = [_reserve(lanes[0], mine, f"user {n}") for n in range(MAX_BATCH + 100)]
        looks = [lanes[0].look(mine, f"user {n}") for n in range(3 * MAX_CALLS_A_WRITE)]
        few = [_reserve(lanes[1], theirs, user) for user in ("ann", "bob", "cem")]
        await pause.end()
        fenced = await asyncio.gather(*few, return_exceptions=True)
        assert [type(each) for each in fenced] == [Fenced] * 3
        assert not looks[-1].done()  # it was not kept waiting for all of them
        decided = await asyncio.gather(first, *many)
        assert sum(each.word is Word.RESERVED for each in decided) == 300
        assert [look.total for look in await asyncio.gather(*looks)] == [300] * len(looks)


async def test_older_epoch_is_not_adopted(shop: Shop) -> None:
    """Two recoveries may be told of in either order."""
    async with _lane(shop) as lane:
        lane.adopt(0)
        assert lane.scripts is not None
        assert lane.scripts.epoch == 1


async def test_fenced_dirty_and_cold(shop: Shop) -> None:
    """Each is said to everyone in the call, and harms no other event's call."""
    good, dirty = await shop.open_event(5), await shop.open_event(5)
    await shop.redis.hincrby(keys.event(shop.partition, dirty), "left", 1)
    async with _lane(shop) as lane:
        asked = [
            _reserve(lane, dirty, "a"), _reserve(lane, dirty, "b"), _reserve(lane, 10**6, "a"),
            lane.look(dirty), lane.look(10**6), _reserve(lane, good, "a"),
        ]  # fmt: skip
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(a) for a in answers] == [
            Dirty, Dirty, type(None), Dirty, type(None), Decision,
        ]  # fmt: skip
        await shop.redis.hset(keys.log(shop.partition), "epoch", 2)
        answers = await asyncio.gather(
            _reserve(lane, good, "b"), lane.look(good), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [Fenced, Fenced]


async def test_who_leaves_harms_nobody(shop: Shop, pause: Pause) -> None:
    """His answer is for nobody; the others of the batch get theirs."""
    event_id = await shop.open_event(5)
    async with _lane(shop) as lane:
        await pause.begin()
        first, second = _reserve(lane, event_id, "ann"), _reserve(lane, event_id, "bob")
        await pause.in_flight()
        first.cancel()
        await pause.end()
        assert (await second).number == Number(1, 2)


async def test_reads(shop: Shop) -> None:
    """The event as it is now, and the entry that holds a number."""
    event_id = await shop.open_event(5)
    async with _lane(shop) as lane:
        await _reserve(lane, event_id, "ann")
        look = await lane.look(event_id, "ann")
        assert look == Look(5, 4, 1, "Чайка", Number(1, 1), ALWAYS)
        seq, entry = await lane.find(Number(1, 1))
        assert (seq, entry[0]) == (1, b"1-1")
        assert await lane.find(Number(1, 2)) == (1, None)
