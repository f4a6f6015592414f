"""What ``docs/operating.md`` tells to type on a bad day is typed here, as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.embedded import PostgresServer, RedisServer, find_postgres
from tests import world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.world import Sale

PAGE = (Path(__file__).parents[2] / "docs/operating.md").read_text(encoding="utf-8")
BLOCKS = [
    textwrap.dedent(block) for block in re.findall(r"```(?:sh|sql)\n(.*?)```", PAGE, re.DOTALL)
]


def said(beginning: str) -> str:
    """The only block of the page that begins so."""
    (block,) = (block for block in BLOCKS if block.startswith(beginning))
    return block


class Stopped:
    """The servers of a sale without its API and its workers."""

    def __init__(self, folder: Path, redis_url: str, database_url: str) -> None:
        self._folder = folder
        self._named = world.environment(REDIS_URL=redis_url, DATABASE_URL=database_url)
        self._named["PATH"] = f"{find_postgres()}{os.pathsep}{os.environ['PATH']}"

    def type(self, commands: str) -> None:
        """Run it in a shell."""
        argv = ["sh", "-euc", commands]
        subprocess.run(argv, cwd=self._folder, env=self._named, check=True, capture_output=True)

    def psql(self, text: str, *args: str) -> None:
        """Run it from a file."""
        (self._folder / "some.sql").write_text(text)
        argv = ["psql", "-v", "ON_ERROR_STOP=1", *args, "-f", "some.sql"]
        self.type(" ".join([*argv, '"$DATABASE_URL"']))

    def empty_redis(self) -> None:
        """Take everything from it."""
        stores = world.Stores(
            redis_url=self._named["REDIS_URL"],
            database_url=self._named["DATABASE_URL"],
            partitions=1,
        )
        assert stores.onsale("redis", "FLUSHALL").stdout == "OK\n"


@contextmanager
def stopped(folder: Path) -> Iterator[Stopped]:
    """Only the servers run."""
    data = folder / "data"
    with RedisServer(data / "redis") as redis, PostgresServer(data / "postgres") as postgres:
        yield Stopped(folder, redis.url, postgres.url)


async def reserve(sale: Sale, event_id: int, user: str) -> int:
    """Take a seat; the booking's id."""
    async with sale.caller() as caller:
        answer = await caller.reserve(event_id, user)
    assert answer.status == 201, answer
    booking: int = answer.body["id"]
    return booking


async def status(sale: Sale, booking: int) -> str:
    """How a booking reads."""
    async with sale.caller() as caller:
        answer = await caller.read(booking)
    found: str = answer.body.get("code") or answer.body["status"]
    return found


@pytest.mark.parametrize("redis", ["kept", "lost"])
async def test_restore(redis: str, tmp_path: Path) -> None:
    """Bookings after the backup are taken again from Redis; without that they read lost."""
    with world.sale(tmp_path, api_workers=1, workers=1) as sale:
        event_id = await sale.open_event(10)
        before = await reserve(sale, event_id, "ann")
        backup = Stopped(tmp_path, sale.redis_url, sale.database_url)
        backup.type(said("pg_dump"))
        assert sale.onsale("redis", "SCRIPT", "FLUSH").stdout == "OK\n"  # an epoch is spent
        after = await reserve(sale, event_id, "ben")
    with stopped(tmp_path) as servers:
        servers.type(said("pg_restore"))
        servers.psql(said("UPDATE partitions"))
        if redis == "lost":
            servers.empty_redis()
    with world.sale(tmp_path, api_workers=1, workers=1) as sale:
        ids = {before, after, await reserve(sale, event_id, "cat")}
        assert len(ids) == 3
        assert await status(sale, before) == "confirmed"
        assert await status(sale, after) == ("confirmed" if redis == "kept" else "booking_lost")
        await sale.count_seats()
        assert (await sale.reconcile()).returncode == 0


async def test_other_partitions(tmp_path: Path) -> None:
    """More of them, and fewer: everybody keeps his seat, under another id, and the sale goes on."""
    ids: set[int] = set()
    booked: dict[str, int] = {}
    for partitions in (4, 7, 3):
        if booked:
            with stopped(tmp_path) as servers:
                servers.psql(said("BEGIN;"), "-v", f"n={partitions}")
                servers.empty_redis()
        with world.sale(tmp_path, api_workers=1, workers=1, partitions=partitions) as sale:
            events = [await sale.open_event(10) for _ in range(5)]
            assert len(await sale.sql("SELECT FROM bookings")) == len(booked)
            for user, event_id in booked.items():
                async with sale.caller() as caller:
                    again = await caller.reserve(event_id, user)
                assert again.body["code"] == "already_booked"
                assert await status(sale, again.body["booking_id"]) == "confirmed"
            for event_id in {*events, *booked.values()}:
                user = f"u{partitions}-{event_id}"
                booking = await reserve(sale, event_id, user)
                assert booking not in ids
                ids.add(booking)
                booked[user] = event_id
            await sale.count_seats()
            assert (await sale.reconcile()).returncode == 0
