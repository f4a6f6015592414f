"""``python -m bench.reconcile``: what sales wait for a reconciliation of a million bookings.

Starts an engine of its own, fills one event, and sells of it at a steady pace: beside a dry run,
alone for as long, beside a run that has drift to mend, alone for as long; and again. Prints how
much longer sales took beside it, and the longest commands that Redis ran meanwhile, as medians of
the rounds. Ends with exit code 1 if a bound is broken.

The pace is open: a call's time runs from the instant at which it was due, so what waits behind a
slow answer counts as well. Everything shares the machine's cores, the callers included. GET /health
beside the sales asks neither store: what it waits is a wait for the cores. Redis measures its
commands by the clock, so where that may be (root) it comes first at the cores, as it would on a
machine of its own; the longest commands alone show what is left of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import asyncpg
import uvloop
from redis.asyncio import Redis

from bench.caller import Caller
from engine import keys
from engine.scripts import Scripts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence

BOOKINGS: Final = 1_000_000
SEATS: Final = 2_000_000
DRIFT: Final = 5_000
"""Users whom a hand takes out of Redis before a run, and as many whom it puts in."""
CONNECTIONS: Final = 50
A_SECOND: Final = 450
"""Calls, over all connections, of each kind in turn."""
ROUNDS: Final = 3
WAIT_BOUND_MS: Final = 50.0
COMMAND_BOUND_MS: Final = 5.0
SLOW_US: Final = 200
MOST_ENTRIES: Final = 100_000

EXPECTED: Final = {"confirmed": 201, "accepted": 202, "health": 200}
KINDS: Final = tuple(EXPECTED)
PREFER: Final = {"confirmed": "wait=10", "accepted": "respond-async"}

State: TypeAlias = dict[str, Any]


def say(line: str) -> None:
    """Print a figure."""
    print(line, flush=True)  # noqa: T201 - this is what it is for


@contextlib.contextmanager
def engine() -> Iterator[tuple[State, Path]]:
    """Run ``onsale up`` in a folder that is gone afterwards; what it printed, and the folder."""
    with tempfile.TemporaryDirectory(prefix="onsale-bench-") as data:
        argv = [sys.executable, "-m", "engine.cli", "up", "--json", "--port", "0", "--data", data]
        quiet = {**os.environ, "RATE_LIMIT_MAX": "0", "LOG_LEVEL": "error"}
        with subprocess.Popen(argv, env=quiet, stdout=subprocess.PIPE) as up:  # noqa: S603 - ours
            try:
                yield json.loads((up.stdout or sys.stdin.buffer).readline()), Path(data)
            finally:
                up.terminate()


@contextlib.asynccontextmanager
async def stores(state: State) -> AsyncIterator[tuple[asyncpg.Connection, Redis]]:
    """Connections of our own to both servers."""
    ledger = await asyncpg.connect(state["database_url"])
    try:
        async with Redis.from_url(state["redis_url"]) as redis:
            yield ledger, redis
    finally:
        await ledger.close()


async def fill(ledger: asyncpg.Connection, bookings: int) -> int:
    """Make an event with this many bookings, as a person would; answers its id."""
    statement = "INSERT INTO events (name, total_seats) VALUES ('bench', $1) RETURNING id"
    event_id: int = await ledger.fetchval(statement, SEATS)
    statement = (
        "INSERT INTO bookings (event_id, user_id) "
        "SELECT $1, md5(n::text) FROM generate_series(1, $2::int) n"
    )
    await ledger.execute(statement, event_id, bookings)
    await ledger.execute("VACUUM ANALYZE bookings")
    return event_id


async def first_sale(caller: Caller, event_id: int, user_id: str) -> None:
    """Ask for a seat until there is a booking; 503 means to try again."""
    while (answer := await caller.reserve(event_id, user_id)).status not in (201, 202):
        if answer.status != 503:  # noqa: PLR2004 - Service Unavailable
            raise RuntimeError(f"event {event_id}: {answer}")
        await asyncio.sleep(0.05)


class Waits(NamedTuple):
    """How long the calls of one kind took, in ms."""

    median: float
    p99: float
    longest: float

    @classmethod
    def of(cls, calls_ms: Sequence[float]) -> Waits:
        """Sum calls up."""
        return cls(
            statistics.median(calls_ms), statistics.quantiles(calls_ms, n=100)[-1], max(calls_ms)
        )


class Sales:
    """Steady sales of one event."""

    def __init__(self, url: str, event_id: int) -> None:
        self._url = url
        self._event_id = event_id
        self._users = count()

    async def beside(self, work: Awaitable[Any]) -> dict[str, Waits]:
        """Sell while something else is done; how long each kind of call took."""
        calls_ms: dict[str, list[float]] = {kind: [] for kind in KINDS}
        over, begun_s = asyncio.Event(), time.perf_counter()
        async with asyncio.TaskGroup() as sellers:
            for place in range(CONNECTIONS):
                sellers.create_task(self._sell(place, begun_s, over, calls_ms))
            await work
            over.set()
        return {kind: Waits.of(calls_ms[kind]) for kind in KINDS}

    async def _sell(
        self, place: int, begun_s: float, over: asyncio.Event, calls_ms: dict[str, list[float]]
    ) -> None:
        """One connection: its calls are due at even distances, whenever the last was answered."""
        async with Caller(self._url) as caller:
            for number in count(place, CONNECTIONS):
                due_s = begun_s + number / A_SECOND
                await asyncio.sleep(due_s - time.perf_counter())
                if over.is_set():
                    return
                kind = KINDS[number % len(KINDS)]
                await self._call(caller, kind)
                calls_ms[kind].append((time.perf_counter() - due_s) * 1000)

    async def _call(self, caller: Caller, kind: str) -> None:
        if kind in PREFER:
            user_id = f"buyer {next(self._users)}"
            answer = await caller.reserve(self._event_id, user_id, prefer=PREFER[kind])
        else:
            answer = await caller.call("GET", "/health")
        if answer.status != EXPECTED[kind]:
            raise RuntimeError(f"{kind}: {answer}")


class Found(NamedTuple):
    """What one run showed: its length, its drift; calls and commands beside it and alone."""

    seconds: float
    drift: int
    beside: dict[str, Waits]
    alone: dict[str, Waits]
    commands_ms: dict[str, float]
    commands_alone_ms: dict[str, float]


class House:
    """One engine with one filled event that is on sale."""

    def __init__(
        self, ledger: asyncpg.Connection, redis: Redis, data: Path, scripts: Scripts, event_id: int
    ) -> None:
        self._ledger = ledger
        self._redis = redis
        self._data = data
        self._event_id = event_id
        self._users = keys.users(scripts.partition, event_id)
        self._names = {
            hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(): name
            for name, text in scripts.texts.items()
        }

    async def compared(self, sales: Sales, *, dry_run: bool) -> Found:
        """Sell beside a run of ``onsale reconcile``, then alone for as long."""
        if not dry_run:
            await self._spoil()
        await self._redis.slowlog_reset()
        begun_s = time.perf_counter()
        run = asyncio.create_task(self._reconcile(dry_run=dry_run))
        beside = await sales.beside(run)
        seconds = time.perf_counter() - begun_s
        commands_ms = await self._longest_commands()
        await self._redis.slowlog_reset()
        alone = await sales.beside(asyncio.sleep(seconds))
        alone_ms = await self._longest_commands()
        return Found(seconds, run.result(), beside, alone, commands_ms, alone_ms)

    async def _reconcile(self, *, dry_run: bool) -> int:
        """Run ``onsale reconcile`` on the event; how much drift it names."""
        which = [str(self._event_id), "--json", "--data", str(self._data)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "engine.cli", "reconcile", *which),
            *(["--dry-run"] if dry_run else []),
            stdout=subprocess.PIPE,
            env={**os.environ, "LOG_LEVEL": "error"},
        )
        printed, _ = await process.communicate()
        return len(json.loads(printed)["drift"])

    async def _spoil(self) -> None:
        """Take users out of Redis and put others in, so that the seats still add up."""
        statement = "SELECT user_id FROM bookings WHERE event_id = $1 ORDER BY id LIMIT $2"
        rows = await self._ledger.fetch(statement, self._event_id, DRIFT)
        strangers = {f"stranger {n}": "0-1" for n in range(DRIFT)}
        async with self._redis.pipeline() as together:
            together.hdel(self._users, *(row["user_id"] for row in rows))
            together.hset(self._users, mapping=strangers)
            await together.execute()

    async def _longest_commands(self) -> dict[str, float]:
        """The longest run of each command since the slow log was reset, in ms."""
        longest: dict[str, float] = {}
        for entry in await self._redis.slowlog_get(MOST_ENTRIES):
            command, _, rest = entry["command"].decode(errors="replace").partition(" ")
            name = self._names.get(rest.partition(" ")[0], command)
            if name == "SLOWLOG":  # ours
                continue
            longest[name] = max(longest.get(name, 0.0), entry["duration"] / 1000)
        return longest


@contextlib.asynccontextmanager
async def house(state: State, data: Path) -> AsyncIterator[tuple[House, Sales]]:
    """Fill an event, and see it on sale."""
    async with stores(state) as (ledger, redis):
        event_id = await fill(ledger, BOOKINGS)
        async with Caller(state["api"]) as caller:
            await first_sale(caller, event_id, "the first")
        await redis.config_set("slowlog-log-slower-than", SLOW_US)
        await redis.config_set("slowlog-max-len", MOST_ENTRIES)
        partition = event_id % await ledger.fetchval("SELECT count(*) FROM partitions")
        epoch = await ledger.fetchval("SELECT epoch FROM partitions WHERE p = $1", partition)
        scripts = Scripts(partition, epoch)
        yield House(ledger, redis, data, scripts, event_id), Sales(state["api"], event_id)


async def measure(state: State, data: Path) -> bool:
    """Run the rounds and print their medians; whether every bound held."""
    rounds: dict[bool, list[Found]] = {True: [], False: []}
    async with house(state, data) as (filled, sales):
        for dry_run in [True, False] * ROUNDS:
            rounds[dry_run].append(await filled.compared(sales, dry_run=dry_run))
    if any(found.drift for found in rounds[True]):
        raise RuntimeError("a dry run found drift: what was planted was not all mended")
    return all([report("dry run", rounds[True]), report("mending", rounds[False])])


def report(name: str, rounds: list[Found]) -> bool:
    """Print a line for each figure; whether its bounds held."""
    seconds = statistics.median(found.seconds for found in rounds)
    drift = max(found.drift for found in rounds)
    say(f"{name}: {BOOKINGS:,} bookings compared in {seconds:.1f} s, {drift:,} differences")
    longer_ms = 0.0
    for kind in KINDS:
        alone = _medians([found.alone[kind] for found in rounds])
        beside = _medians([found.beside[kind] for found in rounds])
        more_ms = statistics.median(
            found.beside[kind].longest - found.alone[kind].longest for found in rounds
        )
        say(f"{name}: {kind:9} alone {_text(alone)}; beside it {_text(beside)}")
        if kind in PREFER:
            longer_ms = max(longer_ms, more_ms)
    say(f"{name}: no sale waits {longer_ms:.1f} ms longer, bound {WAIT_BOUND_MS:g} ms")
    longest_ms = statistics.median(max(found.commands_ms.values()) for found in rounds)
    say(
        f"{name}: longest Redis command {longest_ms:.1f} ms, bound {COMMAND_BOUND_MS:g} ms "
        f"({_slowest([found.commands_ms for found in rounds])})"
    )
    say(f"{name}: alone ({_slowest([found.commands_alone_ms for found in rounds])})")
    return longer_ms <= WAIT_BOUND_MS and longest_ms <= COMMAND_BOUND_MS


def _medians(waits: list[Waits]) -> Waits:
    return Waits(*map(statistics.median, zip(*waits, strict=True)))


def _text(waits: Waits) -> str:
    return f"p50 {waits.median:.1f} p99 {waits.p99:.1f} longest {waits.longest:.1f} ms"


def _slowest(rounds: list[dict[str, float]]) -> str:
    """The four commands with the longest runs, each the median of its longest, in ms."""
    names = {name for commands_ms in rounds for name in commands_ms}
    medians = {
        name: statistics.median(commands_ms.get(name, 0.0) for commands_ms in rounds)
        for name in names
    }
    slowest = sorted(medians, key=medians.__getitem__, reverse=True)[:4]
    return ", ".join(f"{name} {medians[name]:.1f}" for name in slowest)


def main() -> None:
    """Start an engine, measure, stop it."""
    gc.freeze()
    gc.disable()
    with engine() as (state, data):
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, state["pids"]["redis"], -20)
        held = uvloop.run(measure(state, data))
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
