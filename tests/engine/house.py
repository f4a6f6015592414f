"""Both stores with nobody at work in them, and one partition's sale step by step."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import count, groupby
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest

from engine import drain as drain_module
from engine import keys
from engine.drain import Drain
from engine.embedded import RedisServer
from engine.hydrate import Hydration
from engine.ledger import Ledger
from engine.migrate import migrate
from engine.model import Drained, Number
from engine.reconcile import Reconciliation
from engine.recovery import Recovery, Stores, redis_client
from engine.scripts import Scripts
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from redis.asyncio import Redis

    from engine.model import Item
    from engine.outbox import Entry
    from engine.reconcile import Checked

PARTITIONS = 127
PLENTY = 1_000_000
_databases = count(1)


class Crash(BaseException):
    """The process died here."""


@asynccontextmanager
async def database(dsn: str) -> AsyncIterator[str]:
    """The address of an empty database of its own, beside another."""
    name = f"own_{next(_databases)}"
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        yield urlsplit(dsn)._replace(path=f"/{name}").geturl()
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


class House(NamedTuple):
    """One Redis and one migrated ledger."""

    server: RedisServer
    settings: Settings
    redis: Redis
    ledger: Ledger
    drains: list[Drain]

    @property
    def stores(self) -> Stores:
        """Both, for the parts of the engine that see both."""
        recovery = Recovery(self.ledger, self.settings)
        return Stores(self.ledger, self.redis, recovery, self.settings.partitions)

    @classmethod
    @asynccontextmanager
    async def build(
        cls, folder: Path, dsn: str, partitions: int = PARTITIONS
    ) -> AsyncIterator[House]:
        """Start and migrate."""
        async with AsyncExitStack() as stack:
            server = stack.enter_context(RedisServer(folder / "redis"))
            own = await stack.enter_async_context(database(dsn))
            await migrate(own, partitions)
            settings = Settings(
                _env_file=None, redis_url=server.url, database_url=own, partitions=partitions
            )
            redis = await stack.enter_async_context(redis_client(settings))
            ledger = Ledger(own)
            stack.push_async_callback(ledger.close)
            house = cls(server, settings, redis, ledger, [])
            stack.push_async_callback(house.disconnect)
            yield house

    async def restart_redis(self) -> None:
        """Kill Redis and start it again; our old connections are closed."""
        self.server.kill()
        self.server.start()
        await self.disconnect()

    async def disconnect(self) -> None:
        """Close our connections to Redis; who needs one connects again."""
        await self.redis.connection_pool.disconnect()
        for drain in self.drains:
            await drain.close()

    async def sql(self, statement: str, *args: object) -> list[asyncpg.Record]:
        """Run a statement as a person would."""
        connection = await asyncpg.connect(self.settings.postgres_dsn)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *args)
            return rows
        finally:
            await connection.close()


class Shop:
    """One partition of a house. It drains when it is told to."""

    def __init__(self, house: House, partition: int) -> None:
        self.house = house
        self.partition = partition
        self.redis = house.redis
        self.ledger = house.ledger
        self.recovery = Recovery(house.ledger, house.settings)
        self.hydration = Hydration(house.ledger, house.redis)
        self.scripts = Scripts(partition, 0)
        self.drains = Drain(partition, ledger=house.ledger, redis=house.redis)
        house.drains.append(self.drains)
        self.shift = 0
        self.sql = house.sql

    async def open(self) -> Shop:
        """Recover the partition, and take the turn to drain it."""
        epoch = await self.recovery.reopen(self.partition, self.scripts.epoch)
        self.scripts = Scripts(self.partition, epoch)
        self.shift = await self.ledger.begin_shift(self.partition, "a test")
        return self

    async def insert_event(self, total: int) -> int:
        """Insert an event by hand; it is cold."""
        statement = "INSERT INTO events (name, total_seats) VALUES ('Чайка', $1) RETURNING id"
        event_id: int = (await self.sql(statement, total))[0]["id"]
        return event_id

    async def open_event(self, total: int, *users: str) -> int:
        """Insert an event, sell seats of it, and bring them to the ledger."""
        event_id = await self.insert_event(total)
        await self.warm(event_id)
        if users:
            await self.reserve(event_id, *users)
            await self.drain()
        return event_id

    async def warm(self, event_id: int) -> bool:
        """Hydrate an event."""
        return await self.hydration.warm(event_id, self.scripts)

    async def reserve(self, event_id: int, *users: str) -> list[Number | str]:
        """Sell; a number for each who got a seat, else the word."""
        command = self.scripts.reserve(event_id, users, [""] * len(users), bound=PLENTY)
        reply = await self.scripts.call(self.redis, command)
        if isinstance(reply, bytes):
            return [reply.decode()] * len(users)
        epoch = self.scripts.epoch
        return [
            Number(epoch, part) if isinstance(part, int) else part.decode() for part in reply[1:]
        ]

    async def cancel(self, event_id: int, user: str, booking: Number) -> Any:
        """Give a seat back."""
        command = self.scripts.cancel(event_id, user, booking, bound=PLENTY)
        return await self.scripts.call(self.redis, command)

    async def mark(self) -> Number:
        """How far the ledger is."""
        return (await self.ledger.partition(self.partition)).mark

    async def drain(self, drain: Drain | None = None) -> Number:
        """Drain until there is nothing more."""
        drain = drain or self.drains
        mark = await self.mark()
        while True:
            reached = await drain.once(self.scripts, mark, shift=self.shift, block_ms=1)
            if reached == mark:
                return mark
            mark = reached

    async def write_by_hand(self, **fields: str | bytes | int) -> Number:
        """An entry that no script wrote, under the next number."""
        seq = int(await self.redis.hincrby(keys.log(self.partition), "seq", 1))
        number = Number(self.scripts.epoch, seq)
        await self.redis.xadd(keys.outbox(self.partition), fields, str(number))
        return number

    async def reconcile(self, event_id: int, **options: Any) -> Checked:
        """Compare an event, and mend it unless told otherwise."""
        reconciliation = Reconciliation(self.ledger, self.redis, self.scripts)
        return await reconciliation.event(event_id, **{"dry_run": False, **options})

    async def rows(self, event_id: int) -> dict[str, Number]:
        """Who holds what, says the ledger."""
        found = await self.sql("SELECT user_id, id FROM bookings WHERE event_id = $1", event_id)
        return {row["user_id"]: Number.of_booking(row["id"]) for row in found}

    async def held(self, event_id: int) -> dict[str, Number]:
        """Who holds what, says Redis."""
        found = await self.redis.hgetall(keys.users(self.partition, event_id))
        return {user.decode(): Number.parse(value) for user, value in found.items()}

    async def ended(self, event_id: int) -> list[tuple[str, str, str | None]]:
        """User, outcome, reason of what ended, in the order of numbers."""
        found = await self.sql(
            "SELECT user_id, outcome, reason FROM ended_bookings WHERE event_id = $1 ORDER BY id",
            event_id,
        )
        return [tuple(row) for row in found]

    async def fate(self, number: Number) -> tuple[str, str | None]:
        """What the ledger says became of a number: status and reason."""
        return tuple((await self.ledger.fates(self.partition, [number]))[number])

    async def snapshot(self) -> dict[bytes, bytes]:
        """Every key of the partition, whole."""
        found = self.redis.scan_iter(f"onsale:{{{self.partition}}}:*", count=1000)
        return {key: await self.redis.dump(key) async for key in found}

    async def restore(self, snapshot: dict[bytes, bytes]) -> None:
        """Put Redis back to what it was, as a restart from an older file does."""
        for key in await self.snapshot():
            await self.redis.delete(key)
        for key, value in snapshot.items():
            await self.redis.restore(key, 0, value)
        await self.redis.script_flush()

    async def dead(self) -> list[asyncpg.Record]:
        """This partition's dead letters."""
        return await self.sql(
            "SELECT * FROM ended_bookings WHERE outcome = 'dead' AND id & 127 = $1 ORDER BY id",
            self.partition,
        )

    async def agree(self, event_id: int) -> bool:
        """Whether both stores say the same of an event, counted independently."""
        ((total, booked),) = await self.sql(
            "SELECT total_seats, booked FROM events WHERE id = $1", event_id
        )
        rows, held = await self.rows(event_id), await self.held(event_id)
        seats = await self.redis.hmget(keys.event(self.partition, event_id), "total", "left")
        assert booked == len(rows) <= total
        return rows == held and [int(seat) for seat in seats] == [total, total - booked]

    @asynccontextmanager
    async def heard(self) -> AsyncIterator[list[Drained]]:
        """What the drain publishes meanwhile."""
        messages: list[Drained] = []
        async with self.redis.pubsub() as pubsub:
            await pubsub.subscribe(keys.drained(self.partition))
            await pubsub.get_message(timeout=5)
            yield messages
            while message := await pubsub.get_message(ignore_subscribe_messages=True, timeout=0.05):
                messages.append(msgspec.json.decode(message["data"], type=Drained))


def as_entries(items: Sequence[Item]) -> list[Entry]:
    """The entries of an outbox that hold these items, as Redis sends them.

    Reserves of one event and one instant that follow one another are one entry.
    """

    def call(item: Item) -> tuple[object, ...]:
        alone = item.number if item.kind == "cancel" else None
        return item.kind, item.event_id, item.at_ms, alone

    entries = []
    for _, group in groupby(items, call):
        together = list(group)
        last = together[-1]
        fields: dict[str, object] = {
            "kind": last.kind,
            "event": last.event_id,
            "at": last.at_ms,
            "users": json.dumps([item.user_id for item in together]),
        }
        if last.booking:
            fields["booking"] = last.booking
        flat = [str(part).encode() for field in fields.items() for part in field]
        entries.append((str(last.number).encode(), flat))
    return entries


@contextmanager
def crash_after_commit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within, a drain dies between its commit and what it tells."""

    async def die(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(drain_module.Drain, "_tell", die)
        try:
            yield
        except Crash:
            return
    pytest.fail("it did not come to a commit")
