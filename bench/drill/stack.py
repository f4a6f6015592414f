"""The system under the drill: Redis, Postgres, two API processes and two workers.

Every program talks to the servers through proxies of its own. Who dies is started again at once,
as a supervisor would, unless a fault holds him down.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from bench.caller import Caller
from bench.drill.proxy import HOST, Proxy
from bench.drill.record import (
    PARTITIONS,
    BookingRow,
    Dump,
    EndedRow,
    EventKeys,
    EventRow,
    Said,
    booking_named,
)
from engine.embedded import Child, PostgresServer, RedisServer
from engine.migrate import migrate
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

T = TypeVar("T")

APIS: Final = ("api-1", "api-2")
WORKERS: Final = ("worker-1", "worker-2")
BOUND_S: Final = 90.0
POLL_S: Final = 0.02
PAUSE_S: Final = 0.2
POSTGRES: Final = {"max_connections": "80", "autovacuum": "off"}
NAMED: Final = ("DATABASE_URL", "DB_HOST", "REDIS_URL", "REDIS_HOST", "LISTEN_FD")


async def until(fact: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait for a fact.

    Raises:
        TimeoutError: it did not come true in ``BOUND_S``; the message says what.
    """
    try:
        async with asyncio.timeout(BOUND_S):
            while not await fact():  # noqa: ASYNC110 - the fact is in another process
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise TimeoutError(f"not within {BOUND_S:.0f} s: {what}") from None


class Program(Child):
    """An API process or a worker; what it prints goes to a file of its own."""

    death_signal = signal.SIGKILL

    def __init__(self, name: str, log: Path, environment: dict[str, str]) -> None:
        super().__init__(name)
        self.log = log
        self.environment = environment
        """Also what a fault adds to it, until it takes that away."""
        self._module = name.partition("-")[0]

    def launch(self) -> None:
        """Start it."""
        named = {k: v for k, v in os.environ.items() if k not in NAMED} | self.environment
        argv = [sys.executable, "-m", self._module]
        with self.log.open("ab") as log:
            self._process = self._spawn(argv, env=named, stdout=log, stderr=log)


class Stack:
    """Everything that the drill starts, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis = RedisServer(folder / "redis")
        self.postgres = PostgresServer(folder / "postgres", settings=POSTGRES)
        self.programs: dict[str, Program] = {}
        self.to_redis: dict[str, Proxy] = {}
        self.to_postgres: dict[str, Proxy] = {}
        self.held: set[Child] = set()
        """Who is not to be started again."""
        self._read_to: dict[str, int] = {}
        self._of_no_event: set[int] = set()  # dead letters of the rounds before
        # A child dies with the thread that launched it, and starting a server takes a while.
        self._launcher = ThreadPoolExecutor(1)
        self._tending: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stack]:
        """Start everything; stop everything."""
        try:
            await self.in_launcher(self.redis.start)
            await self.in_launcher(self.postgres.start)
            await migrate(self.postgres.url, PARTITIONS)
            for name in (*APIS, *WORKERS):
                await self._add(name)
            self._tending = asyncio.create_task(self._tend())
            await until(self.is_ready, "both API processes are ready")
            yield self
        finally:
            if self._tending:
                self._tending.cancel()
            for child in (*self.programs.values(), self.postgres, self.redis):
                with suppress(ProcessLookupError):
                    child.kill()
            for proxy in self.proxies():
                proxy.close()
            self._launcher.shutdown()

    async def in_launcher(self, work: Callable[[], T]) -> T:
        """Run what starts or stops a child in the one thread for it."""
        return await asyncio.get_running_loop().run_in_executor(self._launcher, work)

    def proxies(self) -> list[Proxy]:
        """All of them."""
        return [*self.to_redis.values(), *self.to_postgres.values()]

    def heal(self) -> None:
        """Let all proxies pass, and whoever was held be started again."""
        for proxy in self.proxies():
            proxy.heal()
        for program in self.programs.values():
            with suppress(ProcessLookupError):
                os.kill(program.pid, signal.SIGCONT)
        self.held.clear()

    def kill(self, name: str) -> None:
        """Kill a program the way a machine does."""
        with suppress(ProcessLookupError):
            os.kill(self.programs[name].pid, signal.SIGKILL)

    def caller(self, api: int) -> Caller:
        """A client of one of the API processes."""
        return Caller(f"http://{HOST}:{self.programs[APIS[api]].environment['PORT']}")

    @asynccontextmanager
    async def down(self, child: Child, number: int = signal.SIGKILL) -> AsyncIterator[None]:
        """End a server; do the body while it is dead; see it run and answer again."""
        self.held.add(child)
        try:
            with suppress(ProcessLookupError):
                os.kill(child.pid, number)
            await until(lambda: _is_dead(child), f"{child.name} is dead")
            yield
        finally:
            self.held.discard(child)
        await until(self._serve, "both servers answer")

    async def _serve(self) -> bool:
        """Whether both servers take commands."""
        await self.in_redis("PING")
        return bool(await self.sql("SELECT 1"))

    # By hand, past the proxies

    @asynccontextmanager
    async def redis_client(self) -> AsyncIterator[Redis]:
        """A person's client of Redis."""
        async with Redis.from_url(self.redis.url, socket_timeout=5) as redis:
            yield redis

    async def in_redis(self, *command: str | int | bytes) -> Any:
        """One command by hand, once Redis is there to take it."""
        reply: Any = None

        async def ask() -> bool:
            nonlocal reply
            try:
                async with self.redis_client() as redis:
                    reply = await redis.execute_command(*command)
            except (RedisError, OSError):
                return False
            return True

        await until(ask, f"Redis takes {command[0]!r}")
        return reply

    async def sql(self, statement: str, *args: object) -> list[asyncpg.Record]:
        """One statement by hand, once Postgres is there to take it.

        Raises:
            asyncpg.IntegrityConstraintViolationError: the ledger refuses it.
        """
        rows: list[asyncpg.Record] = []

        async def ask() -> bool:
            nonlocal rows
            try:
                connection = await asyncpg.connect(self.postgres.url, timeout=2, command_timeout=10)
                try:
                    rows = await connection.fetch(statement, *args)
                finally:
                    connection.terminate()
            except asyncpg.IntegrityConstraintViolationError:
                raise
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                return False
            return True

        await until(ask, f"Postgres takes {statement!r}")
        return rows

    def settings(self) -> Settings:
        """The settings of a command that is run by hand, past the proxies."""
        return Settings(
            _env_file=None,  # type: ignore[call-arg]
            redis_url=self.redis.url,
            database_url=self.postgres.url,
            partitions=PARTITIONS,
            log_level="error",
        )

    # What is to be seen from outside

    async def is_ready(self) -> bool:
        """Whether both API processes have both servers."""
        try:
            for api in range(len(APIS)):
                async with self.caller(api) as caller, asyncio.timeout(5):
                    if (await caller.call("GET", "/ready")).status != 200:  # noqa: PLR2004
                        return False
        except (OSError, EOFError, TimeoutError):
            return False
        return True

    async def is_drained(self) -> bool:
        """Whether the ledger has taken everything that Redis has given out."""
        rows = await self.sql("SELECT p, epoch, state, mark_epoch, mark_seq FROM partitions")
        for p, epoch, state, mark_epoch, mark_seq in rows:
            seq = await self.in_redis("HMGET", f"onsale:{{{p}}}:log", "epoch", "seq")
            given = [str(epoch).encode(), str(mark_seq).encode()]
            if state != "open" or epoch != mark_epoch or (epoch and seq != given):
                return False
        return True

    async def dump(self, events: list[int]) -> Dump:
        """These events in both stores."""
        found = await self.sql(
            "SELECT id, total_seats, booked FROM events WHERE id = ANY($1) ORDER BY id", events
        )
        bookings = await self.sql(
            "SELECT id, event_id, user_id FROM bookings WHERE event_id = ANY($1)", events
        )
        ended = await self.sql(
            "SELECT id, event_id, user_id, outcome, reason FROM ended_bookings "
            "WHERE event_id = ANY($1) OR (outcome = 'dead' AND id <> ALL($2) "
            "AND NOT EXISTS (SELECT FROM events WHERE events.id = event_id))",
            events, list(self._of_no_event),
        )  # fmt: skip
        self._of_no_event |= {row["id"] for row in ended if row["event_id"] not in events}
        warm = {each: keys for each in events if (keys := await self._keys(each))}
        return Dump(
            [EventRow(*row) for row in found],
            [BookingRow(*row) for row in bookings],
            [EndedRow(*row) for row in ended],
            warm,
        )

    async def _keys(self, event: int) -> EventKeys | None:
        p = event % PARTITIONS
        key = f"onsale:{{{p}}}:event:{event}"
        async with self.redis_client() as redis:
            epoch = await redis.hget(f"onsale:{{{p}}}:log", "epoch")  # type: ignore[misc]
            seats = await redis.hmget(key, ["epoch", "total", "left"])  # type: ignore[misc]
            if epoch is None or seats[0] != epoch:
                return None
            users = await redis.hgetall(f"{key}:users")  # type: ignore[misc]
        held = {user.decode(): booking_named(it.decode(), p) for user, it in users.items()}
        return EventKeys(int(seats[1]), int(seats[2]), held)

    def said(self) -> list[Said]:
        """What the programs have logged since the last time, as far as it matters to the judge."""
        lines = []
        for name, program in self.programs.items():
            text = program.log.read_bytes()[self._read_to.get(name, 0) :]
            whole = text[: text.rfind(b"\n") + 1]
            self._read_to[name] = self._read_to.get(name, 0) + len(whole)
            lines += [said for line in whole.splitlines() if (said := _said(name, line.decode()))]
        return lines

    # Making

    async def _add(self, name: str) -> None:
        redis, postgres = urlsplit(self.redis.url), urlsplit(self.postgres.url)
        proxies = [Proxy((HOST, server.port or 0)) for server in (redis, postgres)]
        for proxy in proxies:
            await proxy.open()
        self.to_redis[name], self.to_postgres[name] = proxies
        environment = {
            "REDIS_URL": redis._replace(
                netloc=f":{redis.password}@{HOST}:{proxies[0].port}"
            ).geturl(),
            "DATABASE_URL": postgres._replace(
                netloc=f"onsale:{postgres.password}@{HOST}:{proxies[1].port}"
            ).geturl(),
            "PARTITIONS": str(PARTITIONS),
            "PORT": str(_free_port()),
            "RATE_LIMIT_MAX": "0",
            "REDIS_TIMEOUT_MS": "1500",
            "LOG_FORMAT": "json",
        }
        self.programs[name] = Program(name, self.folder / f"{name}.log", environment)
        await self.in_launcher(self.programs[name].launch)

    async def _tend(self) -> None:
        """Start again who has died."""
        while True:
            for child in (self.redis, self.postgres, *self.programs.values()):
                if child.exit_code is not None and child not in self.held:
                    await self.in_launcher(child.launch)
            await asyncio.sleep(PAUSE_S)


def children_of(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.append(int(stat.parent.name))
    return found


async def _is_dead(child: Child) -> bool:
    return child.exit_code is not None


def _said(program: str, line: str) -> Said | None:
    """A line that matters to the judge."""
    try:
        facts = json.loads(line)
    except ValueError:
        return Said("traceback", program, line) if "Traceback" in line or "Error" in line else None
    if not isinstance(facts, dict):
        return None
    if "exception" in facts:
        return Said("traceback", program, line)
    event = facts.get("event")
    if event in ("drift", "dead_letter", "rejected"):
        return Said(event, program, line, facts.get("event_id") or 0)
    return None


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listening:
        port: int = listening.getsockname()[1]
    return port
