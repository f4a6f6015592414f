"""``python -m bench.drain``: what a drain costs, by the size of what it finds.

Starts a Redis and a Postgres of its own, sells seats of one event, and drains them in this process:
one entry of one booking, of 15, of 100, and a backlog. Prints the CPU of a drain in this process
(the worker's part) and in Postgres, and how long it took from the read to the next: the median, and
the least of the rounds' CPU, since what others do on the machine adds to the rest.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import uvloop

from bench.reconcile import say
from bench.speed import cpu
from engine.drain import Drain
from engine.embedded import PostgresServer, RedisServer
from engine.hydrate import Hydration
from engine.ledger import Ledger
from engine.log import configure
from engine.migrate import migrate
from engine.recovery import Recovery, redis_client
from engine.scripts import Scripts
from engine.settings import Settings

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from engine.model import Number

SIZES: Final = ((1, 1), (15, 1), (100, 1), (60, 30))
"""Bookings an entry, and entries."""
ROUNDS: Final = 6
ROUND_S: Final = 0.5
WARM_UP: Final = 10
SEATS: Final = 2_000_000_000
BLOCK_MS: Final = 1000


class Cost(NamedTuple):
    """What one drain took."""

    worker_us: float
    postgres_us: float
    median_us: float


class Desk:
    """One event on sale, and one drain."""

    def __init__(self, ledger: Ledger, redis: Redis, postgres: int, epoch: int, shift: int) -> None:
        self._ledger = ledger
        self._redis = redis
        self._postgres = postgres
        self._scripts = Scripts(0, epoch)
        self._shift = shift
        self._drain = Drain(0, ledger=ledger, redis=redis)
        self._event_id = 0
        self._mark: Number
        self._sold = 0

    async def open(self) -> None:
        """Put the event on sale."""
        async with self._ledger.connection() as connection:
            self._event_id = await connection.fetchval(
                "INSERT INTO events (name, total_seats) VALUES ('bench', $1) RETURNING id", SEATS
            )
        await Hydration(self._ledger, self._redis).warm(self._event_id, self._scripts)
        self._mark = (await self._ledger.partition(0)).mark

    async def close(self) -> None:
        """Give the connection back."""
        await self._drain.close()

    async def round(self, users: int, entries: int) -> Cost:
        """Sell and drain for a while."""
        for _ in range(WARM_UP):
            await self._once(users, entries)
        took_s, worker_s, until_s = [], 0.0, time.perf_counter() + ROUND_S
        before_s = cpu.seconds(self._postgres)
        while time.perf_counter() < until_s:
            each_took_s, each_cpu_s = await self._once(users, entries)
            took_s.append(each_took_s)
            worker_s += each_cpu_s
        postgres_s = cpu.seconds(self._postgres) - before_s
        each = 1e6 / len(took_s)
        return Cost(worker_s * each, postgres_s * each, statistics.median(took_s) * 1e6)

    async def _once(self, users: int, entries: int) -> tuple[float, float]:
        """Sell, and drain it all; answers how long that took, and its CPU."""
        for _ in range(entries):
            names = [f"user {self._sold + place}" for place in range(users)]
            self._sold += users
            command = self._scripts.reserve(self._event_id, names, [""] * users, bound=SEATS)
            await self._scripts.call(self._redis, command)
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        while self._mark.seq < self._sold:
            self._mark = await self._drain.once(
                self._scripts, self._mark, shift=self._shift, block_ms=BLOCK_MS
            )
        return time.perf_counter() - begun_s, time.process_time() - begun_cpu_s


async def measure(redis_url: str, postgres: PostgresServer) -> None:
    """Print a line for each size."""
    dsn = postgres.local_url
    settings = Settings(redis_url=redis_url, database_url=dsn, partitions=1, log_level="error")
    configure(settings)
    await migrate(dsn, 1)
    ledger = Ledger(dsn)
    async with redis_client(settings) as redis:
        epoch = await Recovery(ledger, settings).reopen(0, 0)
        shift = await ledger.begin_shift(0, "bench")
        desk = Desk(ledger, redis, postgres.pid, epoch, shift)
        await desk.open()
        for users, entries in SIZES:
            costs = [await desk.round(users, entries) for _ in range(ROUNDS)]
            worker, server, median = (min(column) for column in zip(*costs, strict=True))
            bookings = users * entries
            say(
                f"a drain of {bookings:,}: worker {worker:,.0f} µs, Postgres {server:,.0f} µs, "
                f"took {median:,.0f} µs; a booking: {worker / bookings:.1f} and "
                f"{server / bookings:.1f} µs"
            )
        await desk.close()
    await ledger.close()


def main() -> None:
    """Start the servers, measure, stop them."""
    gc.freeze()
    gc.disable()
    with (
        tempfile.TemporaryDirectory() as name,
        RedisServer(Path(name) / "redis") as redis,
        PostgresServer(Path(name) / "postgres") as postgres,
    ):
        uvloop.run(measure(redis.local_url, postgres))


if __name__ == "__main__":
    main()
