"""The servers that all contenders share: one Redis and one Postgres, each with room for each."""

from __future__ import annotations

import asyncio
import importlib
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import asyncpg
import redis

from bench.speed.contender import CONTENDERS, ONSALE, Contender
from engine.embedded import PostgresServer, RedisServer
from engine.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Callable

PARTITIONS: Final = 16
COMMITS: Final = 200
POLL_S: Final = 0.01
REDIS_DATABASE: Final = {"onsale": 0, "redis_evalsha": 1, "arq_job": 2}


class Servers:
    """Redis and Postgres of our own, in a folder that is gone afterwards.

    Each contender has a database of its own in both; nobody else is running while it is measured.
    """

    def __init__(self) -> None:
        self._at_end = ExitStack()
        self.folder = Path(self._at_end.enter_context(tempfile.TemporaryDirectory("-onsale-bench")))
        self.redis = RedisServer(self.folder / "redis")
        self.postgres = PostgresServer(self.folder / "postgres")

    def __enter__(self) -> Self:
        with ExitStack() as on_failure:
            on_failure.callback(self._at_end.close)
            self._at_end.enter_context(self.redis)
            self._at_end.enter_context(self.postgres)
            for contender in CONTENDERS:
                self._lay_out(contender)
            on_failure.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._at_end.close()

    def database_url(self, contender: Contender) -> str:
        """The contender's database, by the Unix socket; variants of onsale share its own."""
        name = ONSALE.name if contender.is_ours else contender.name
        return f"{self.postgres.local_url.rpartition('/')[0]}/{name}"

    def redis_url(self, contender: Contender) -> str:
        """The contender's database in Redis, by the Unix socket."""
        name = ONSALE.name if contender.is_ours else contender.name
        return f"{self.redis.local_url}?db={REDIS_DATABASE.get(name, 3)}"

    def fresh_folder(self, name: str) -> Path:
        """An empty folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def sql(self, contender: Contender, statement: str, *args: object) -> list[asyncpg.Record]:
        """Run a statement by hand."""
        return asyncio.run(_fetch(self.database_url(contender), statement, *args))

    def tidy(self) -> None:
        """Between two turns: nobody pays for what somebody else has left behind."""
        asyncio.run(_fetch(self.postgres.url, "CHECKPOINT"))
        for name, database in REDIS_DATABASE.items():
            if name != ONSALE.name:
                with redis.Redis.from_url(f"{self.redis.url.rpartition('/')[0]}/{database}") as db:
                    db.flushdb()

    def redis_used_bytes(self) -> int:
        """Memory that Redis uses for what it keeps, without its clients and buffers."""
        with redis.Redis.from_url(self.redis.url) as client:
            return int(client.info("memory")["used_memory_dataset"])

    def commit_ms(self) -> float:
        """The median time of one bare COMMIT: a row of one number, on one connection."""
        return asyncio.run(_commit_ms(self.postgres.url))

    def versions(self) -> dict[str, str]:
        """What the servers say they are."""
        with redis.Redis.from_url(self.redis.url) as client:
            info: dict[str, Any] = client.info("server")
        ((postgres,),) = asyncio.run(_fetch(self.postgres.url, "SHOW server_version"))
        name = "valkey" if "valkey_version" in info else "redis"
        return {name: str(info[f"{name}_version"]), "postgres": str(postgres)}

    @staticmethod
    def await_fact(fact: Callable[[], object], *, within_s: float, what: str) -> None:
        """Return when it is so.

        Raises:
            TimeoutError: it was not in time; the message says what.
        """
        deadline = time.monotonic() + within_s
        while not fact():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {within_s:.0f} s: {what}")
            time.sleep(POLL_S)

    def _lay_out(self, contender: Contender) -> None:
        if contender.is_ours:
            asyncio.run(migrate(self.postgres.url, PARTITIONS))
        elif contender.store == "postgres":
            schema = importlib.import_module(contender.worker or contender.api).SCHEMA
            asyncio.run(_fetch(self.postgres.url, f'CREATE DATABASE "{contender.name}"'))
            asyncio.run(_execute(self.database_url(contender), schema))


async def _fetch(url: str, statement: str, *args: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        rows: list[asyncpg.Record] = await connection.fetch(statement, *args)
        return rows
    finally:
        await connection.close()


async def _execute(url: str, script: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script)
    finally:
        await connection.close()


async def _commit_ms(url: str) -> float:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS one_number (n int)")
        insert = await connection.prepare("INSERT INTO one_number VALUES (1)")
        took_s = []
        for _ in range(COMMITS):
            begun_s = time.perf_counter()
            await insert.fetch()
            took_s.append(time.perf_counter() - begun_s)
        return statistics.median(took_s) * 1000
    finally:
        await connection.close()
