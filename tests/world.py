"""The small language of the tests: servers, a whole sale, callers, and a count of the seats."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from bench.caller import Caller
from bench.drill.stack import children_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

BOUND_S = 60.0
LONG = "ONSALE_LONG" in os.environ
NAMED = ("DATABASE_URL", "DB_HOST", "REDIS_URL", "REDIS_HOST", "LISTEN_FD", "PARTITIONS")


def environment(**more: str) -> dict[str, str]:
    """The environment of a child: ours, without what would name other servers."""
    return {k: v for k, v in os.environ.items() if k not in NAMED} | more


async def until(fact: Callable[[], Awaitable[object]], *, within_s: float = BOUND_S) -> None:
    """Wait for a fact; looking for it is all that takes time."""
    async with asyncio.timeout(within_s):
        while not await fact():  # noqa: ASYNC110 - the fact is in another process
            await asyncio.sleep(0.01)


class Stores:
    """Both stores, seen from outside: nothing of the engine's code is used to look at them."""

    def __init__(self, *, redis_url: str, database_url: str, partitions: int) -> None:
        self.redis_url = redis_url
        self.database_url = database_url
        self.partitions = partitions

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[Redis]:
        """A client of Redis."""
        async with Redis.from_url(self.redis_url, decode_responses=True) as redis:
            yield redis

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to Postgres, as a person's."""
        connection = await asyncpg.connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def answers(self, name: str) -> bool:
        """Whether ``redis`` or ``postgres`` takes commands."""
        try:
            if name == "redis":
                async with self.redis() as redis:
                    await redis.ping()
            else:
                await self.sql("SELECT 1")
        except (RedisError, OSError, asyncpg.PostgresError):
            return False
        return True

    async def sql(self, statement: str, *args: object) -> list[asyncpg.Record]:
        """Run a statement by hand."""
        async with self.ledger() as ledger:
            rows: list[asyncpg.Record] = await ledger.fetch(statement, *args)
            return rows

    async def open_event(self, total_seats: int, name: str = "Чайка") -> int:
        """Insert an event by hand."""
        statement = "INSERT INTO events (name, total_seats) VALUES ($1, $2) RETURNING id"
        event_id: int = (await self.sql(statement, name, total_seats))[0]["id"]
        return event_id

    async def digest(self) -> int:
        """A value that changes when anything that a caller can change does, but for his limit."""
        seen: list[object] = []
        async with Redis.from_url(self.redis_url) as redis:
            found = [key async for key in redis.scan_iter("onsale:{[0-9]*", count=1000)]
            seen += [(key, await redis.dump(key)) for key in sorted(found)]
        async with self.ledger() as ledger:
            for table in ("events", "bookings", "ended_bookings", "epochs"):
                seen += await ledger.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")  # noqa: S608
        return hash(repr(seen))

    async def is_open(self) -> bool:
        """Whether every partition was opened, be it for the first time."""
        return not await self.sql("SELECT FROM partitions WHERE epoch = 0 OR state <> 'open'")

    async def is_drained(self) -> bool:
        """Whether the ledger has taken everything that was given out."""
        rows = await self.sql("SELECT p, epoch, state, mark_epoch, mark_seq FROM partitions")
        async with self.redis() as redis:
            for p, epoch, state, mark_epoch, mark_seq in rows:
                seq = await redis.hmget(f"onsale:{{{p}}}:log", "epoch", "seq")
                if state != "open" or epoch != mark_epoch:
                    return False
                if epoch and seq != [str(epoch), str(mark_seq)]:
                    return False
        return True

    def onsale(self, *args: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run an ``onsale`` command against these stores."""
        named = environment(
            DATABASE_URL=self.database_url,
            REDIS_URL=self.redis_url,
            PARTITIONS=str(self.partitions),
            **settings,
        )
        argv = [sys.executable, "-m", "engine.cli", *args]
        return subprocess.run(argv, env=named, capture_output=True, text=True, check=False)

    async def count_seats(self) -> None:
        """Count independently: available + booked = total, and both stores say the same."""
        await until(self.is_drained)
        counted = await self.sql(
            "SELECT e.id, total_seats, booked, array_agg(user_id) AS users, count(b.id) AS rows "
            "FROM events e LEFT JOIN bookings b ON b.event_id = e.id GROUP BY e.id"
        )
        async with self.redis() as redis:
            for event_id, total, booked, users, rows in counted:
                assert booked == rows, f"event {event_id}: booked {booked}, {rows} rows"
                assert rows <= total, f"event {event_id} is oversold"
                p = event_id % self.partitions
                key = f"onsale:{{{p}}}:event:{event_id}"
                epoch = await redis.hget(f"onsale:{{{p}}}:log", "epoch")
                if epoch is None or await redis.hget(key, "epoch") != epoch:
                    continue  # cold
                seats = await redis.hmget(key, "total", "left")
                held = await redis.hkeys(f"{key}:users")
                assert seats == [str(total), str(total - rows)], f"event {event_id}: {seats}"
                assert sorted(held) == sorted(filter(None, users)), f"event {event_id}"


class Sale(Stores):
    """A whole engine in processes of its own, started by ``onsale up``."""

    def __init__(self, process: subprocess.Popen[str], data: Path, partitions: int) -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (data.parent / "up.log").read_text()
        self._process = process
        self._data = data
        state = json.loads(line)
        self.api: str = state["api"]
        super().__init__(
            redis_url=state["redis_url"],
            database_url=state["database_url"],
            partitions=partitions,
        )

    def pids(self, name: str) -> list[int]:
        """The process ids of ``api``, ``worker``, ``redis`` or ``postgres``, as they are now."""
        found = json.loads((self._data / "up.json").read_text())["pids"][name]
        return found if isinstance(found, list) else [found]

    def said(self, what: str, *, event_id: int) -> int:
        """How many lines of the processes' logs say this of an event."""
        lines = (self._data.parent / "up.log").read_text().splitlines()
        about = re.compile(rf"\b{what}\b.*\bevent_id={event_id}\b")
        return sum(bool(about.search(line)) for line in lines)

    def kill(self, name: str, which: int = 0) -> None:
        """Kill one of these processes, the way a machine does.

        Postgres is killed with its backends: they outlive the postmaster for a moment, and may
        commit in it.
        """
        pid = self.pids(name)[which]
        with_it = []
        if name == "postgres":
            os.kill(pid, signal.SIGSTOP)  # so that it makes no more of them
            with_it = children_of(pid)
        for each in (*with_it, pid):
            os.kill(each, signal.SIGKILL)

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """Freeze these processes with all their children: they hold what they hold, mute."""
        frozen: list[int] = []
        try:
            for pid in self.pids(name):
                os.kill(pid, signal.SIGSTOP)
                frozen.append(pid)
            for pid in frozen:  # grows: children of children
                for child in children_of(pid):
                    os.kill(child, signal.SIGSTOP)
                    frozen.append(child)
            yield
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)

    def api_processes(self) -> list[int]:
        """The processes that share the API's socket."""
        children = children_of(self.pids("api")[0])
        return [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]

    @contextmanager
    def only(self, api_process: int) -> Iterator[None]:
        """Let one process of the API take all new connections."""
        others = [pid for pid in self.api_processes() if pid != api_process]
        try:
            for pid in others:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def killed(self, name: str) -> Iterator[None]:
        """Kill these processes, and keep ``onsale up`` from starting them again."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            for which in range(len(self.pids(name))):
                self.kill(name, which)
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def caller(self) -> Caller:
        """Somebody who calls the API."""
        return Caller(self.api)

    async def reconcile(self) -> subprocess.CompletedProcess[str]:
        """A dry reconciliation, once the ledger has taken everything."""
        await until(self.is_drained)
        return await asyncio.to_thread(self.onsale, "reconcile", "--dry-run", "--json")


@contextmanager
def sale(
    folder: Path,
    *,
    api_workers: int = 2,
    workers: int = 2,
    partitions: int = 4,
    rate_limit_max: int = 0,
    **settings: str,
) -> Iterator[Sale]:
    """Run ``onsale up`` with its data in a folder."""
    data = folder / "data"
    argv = [sys.executable, "-m", "engine.cli", "up", "--json", "--port", "0", "--data", str(data)]
    argv += ["--api-workers", str(api_workers), "--workers", str(workers)]
    limit = str(rate_limit_max)
    named = environment(PARTITIONS=str(partitions), RATE_LIMIT_MAX=limit, **settings)
    with (folder / "up.log").open("w") as log:
        process = subprocess.Popen(argv, env=named, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield Sale(process, data, partitions)
    finally:
        process.terminate()
        assert process.wait(BOUND_S) == 0, (folder / "up.log").read_text()
        assert process.stdout is not None
        process.stdout.close()
