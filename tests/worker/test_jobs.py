"""What arq runs: ticks, shifts that spread over workers, and hands that are followed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from engine import keys
from engine.drain import Brake
from engine.gate import Gate
from engine.tasks import stop
from tests import world
from tests.engine.house import Shop
from worker import drain, jobs
from worker.jobs import Hands, hand_out_shifts, measure, reconcile_all, shift
from worker.main import WorkerSettings, arq_redis, serialize

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import arq

    from tests.engine.house import House


@asynccontextmanager
async def _queue(house: House) -> AsyncIterator[arq.ArqRedis]:
    """Arq's own client, as a worker has it."""
    queue = arq_redis(house.settings)
    yield queue
    await queue.aclose(close_connection_pool=True)


async def test_each_partition_once_a_tick(
    own_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many workers tick, a partition is offered once; at the next tick again."""
    async with _queue(own_house) as queue:
        ctx = {"stores": own_house.stores, "redis": queue}
        for now_s, offered in ((1000.0, 3), (1001.9, 3), (1002.0, 6)):
            monkeypatch.setattr(jobs.time, "time", lambda now_s=now_s: now_s)
            await hand_out_shifts(ctx)
            await hand_out_shifts(ctx)
            assert await queue.zcard(WorkerSettings.queue_name) == offered
        monkeypatch.undo()
        args = [job.args for job in await queue.queued_jobs()]
        assert sorted(args) == [[0], [0], [1], [1], [2], [2]]


async def test_waiting_dead_letters_are_counted(own_house: House) -> None:
    """At each tick, whoever set them aside."""
    insert = """INSERT INTO ended_bookings (id, created_at, outcome, reason, entry)
                SELECT n, now(), 'dead', 'odd', '{}' FROM generate_series(1, 3) n"""
    async with _queue(own_house) as queue:
        for statement, waiting in ((insert, 3), ("DELETE FROM ended_bookings", 0)):
            await own_house.sql(statement)
            await hand_out_shifts({"stores": own_house.stores, "redis": queue})
            assert REGISTRY.get_sample_value("onsale_dead_letters_waiting") == waiting


async def test_outboxes_are_measured(own_house: House) -> None:
    """At each tick: how deep and how late each partition is, and that somebody was there."""
    shop = await Shop(own_house, 1).open()
    await shop.reserve(await shop.open_event(5), "ann", "bob")
    await measure(own_house.stores)
    value = REGISTRY.get_sample_value
    assert value("onsale_outbox_depth", {"partition": "1"}) == 2
    assert (value("onsale_outbox_lag_seconds", {"partition": "1"}) or 0) >= 0
    assert time.time() - (value("onsale_last_tick_timestamp_seconds") or 0) < world.BOUND_S
    await shop.drain()
    await measure(own_house.stores)
    assert value("onsale_outbox_depth", {"partition": "1"}) == 0


async def test_jobs_are_json(own_house: House) -> None:
    """Nobody who can write to Redis can run code in a worker."""
    async with _queue(own_house) as queue:
        await hand_out_shifts({"stores": own_house.stores, "redis": queue})
        found = [key async for key in queue.scan_iter("arq:job:*")]
        texts = [await queue.get(key) for key in found]
    assert {json.loads(text)["f"] for text in texts} == {"shift"}


def test_pickle_is_not_read() -> None:
    """What arq takes by default is refused."""
    with pytest.raises(ValueError, match=r"UTF-8|JSON"):
        WorkerSettings.job_deserializer(b"\x80\x04N.")
    assert json.loads(serialize({"r": ValueError("x")})) == {"r": "ValueError('x')"}


async def test_shift_that_cannot_run_waits_for_the_next_tick(
    own_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is away is no failure of the job."""
    monkeypatch.setattr(drain, "SHIFT_S", 0.3)
    own_house.server.kill()
    stores = own_house.stores
    brakes = [Brake() for _ in range(3)]
    await shift({"stores": stores, "brakes": brakes, "gate": Gate(), "name": "ann's"}, 1)
    own_house.server.start()


@contextmanager
def _worker(house: House) -> Iterator[int]:
    """A worker process of a house; its id."""
    named = world.environment(
        DATABASE_URL=house.settings.postgres_dsn,
        REDIS_URL=house.settings.redis_dsn,
        PARTITIONS=str(house.settings.partitions),
        LOG_LEVEL="error",
    )
    process = subprocess.Popen([sys.executable, "-m", "worker"], env=named)
    try:
        yield process.pid
    finally:
        process.terminate()
        assert process.wait(world.BOUND_S) == 0


async def test_two_workers_share(own_house: House) -> None:
    """Both have shifts; when one goes, the other has all of them."""

    async def holders() -> set[str]:
        rows = await own_house.sql("SELECT holder FROM partitions")
        return {row["holder"].rpartition(":")[2] for row in rows}

    seen: set[str] = set()
    with _worker(own_house) as staying:
        with _worker(own_house) as going:

            async def both() -> bool:
                seen.update(await holders())
                return {str(staying), str(going)} <= seen

            await world.until(both)

        async def one() -> bool:
            return await holders() == {str(staying)}

        await world.until(one)


@pytest.mark.parametrize(
    ("statement", "news"),
    [
        ("UPDATE events SET total_seats = 3 WHERE id = $1", "event {} []"),
        ("INSERT INTO bookings (event_id, user_id) VALUES ($1, 'zoe')", 'event {} ["zoe"]'),
        ("DELETE FROM bookings WHERE event_id = $1", 'event {} ["ann"]'),
        ("DELETE FROM bookings WHERE event_id = $1", "event {}"),
        ("DELETE FROM bookings WHERE event_id = $1", "all"),
    ],
)
async def test_hands_are_followed(own_house: House, statement: str, news: str) -> None:
    """Redis says what the ledger says, as soon as it is told."""
    shop = await Shop(own_house, 1).open()  # its first event is of partition 1
    event_id = await shop.open_event(5, "ann")
    await shop.sql(statement, event_id)
    await Hands(own_house.stores).follow_once(news.format(event_id))
    assert await shop.agree(event_id)


async def test_truncate_makes_events_cold(own_house: House) -> None:
    """The next who asks for one loads it: empty."""
    shop = await Shop(own_house, 1).open()  # its first event is of partition 1
    event_id = await shop.open_event(5, "ann")
    await shop.sql("TRUNCATE bookings")
    await Hands(own_house.stores).follow_once("truncate")
    assert await shop.reserve(event_id, "ann") == ["cold"]
    await shop.warm(event_id)
    assert await shop.agree(event_id)


async def test_hands_that_are_too_quick(own_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """More news than can be kept are none in particular: every event is compared."""
    monkeypatch.setattr(jobs, "MAX_NEWS", 2)
    shop = await Shop(own_house, 1).open()  # its first event is of partition 1
    event_id = await shop.open_event(5, "ann")
    await shop.sql("UPDATE events SET total_seats = 9 WHERE id = $1", event_id)
    hands = Hands(own_house.stores)
    with capture_logs() as logs:
        for _ in range(3):
            hands.hear("new 1")
    assert [line["event"] for line in logs] == ["hands_too_quick"]
    following = asyncio.create_task(hands._follow())  # noqa: SLF001 - it hears nothing else

    async def agree() -> bool:
        return await shop.agree(event_id)

    await world.until(agree)
    await stop(following)


@pytest.mark.parametrize("news", ["new 1", "", "something else", "new"])
async def test_news_that_changes_nothing(own_house: House, news: str) -> None:
    """A new event is cold: Redis has nothing of it."""
    shop = await Shop(own_house, 1).open()  # its first event is of partition 1
    await shop.open_event(5, "ann")
    before = await shop.snapshot()
    await Hands(own_house.stores).follow_once(news)
    assert await shop.snapshot() == before


async def test_cron_mends(own_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no notification told of is found by count, and now and then user by user."""
    shop = await Shop(own_house, 1).open()  # its first event is of partition 1
    event_id = await shop.open_event(5, "ann")
    users = keys.users(shop.partition, event_id)
    quarter = time.gmtime(15 * 60)
    other = time.gmtime(16 * 60)
    await shop.redis.hset(users, "zoe", "1-1")
    monkeypatch.setattr(jobs.time, "gmtime", lambda: other)
    await reconcile_all({"stores": own_house.stores})
    assert await shop.agree(event_id)
    await shop.redis.hset(users, "ann", "1-0")
    await reconcile_all({"stores": own_house.stores})
    assert not await shop.agree(event_id)
    monkeypatch.setattr(jobs.time, "gmtime", lambda: quarter)
    await reconcile_all({"stores": own_house.stores})
    assert await shop.agree(event_id)
