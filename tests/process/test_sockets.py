"""Programs talk to servers of their own machine over Unix sockets: ours always, yours if named."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import pytest

from engine.embedded import PostgresServer, RedisServer
from engine.readings import read
from engine.settings import Settings
from engine.up import redis_command
from tests import world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.world import Sale


class Named(NamedTuple):
    """The addresses of somebody's own servers."""

    redis: str
    postgres: str
    postgres_otherwise: str


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    """By their sockets, as a person writes them."""
    folder = tmp_path_factory.mktemp("the servers")
    with RedisServer(folder / "redis") as redis, PostgresServer(folder / "postgres") as postgres:
        redis_password, password = (
            (each.data_dir / "password").read_text() for each in (redis, postgres)
        )
        socket, host = quote(f"{redis.data_dir}/redis.sock"), quote(str(postgres.data_dir))
        yield Named(
            f"unix://:{redis_password}@{socket}?db=1",
            f"postgresql://onsale:{password}@/onsale?host={host}&port={postgres.port}",
            postgres.local_url,
        )


async def reserve(sale: Sale, event_id: int) -> None:
    """Have both programs use both servers."""
    async with sale.caller() as caller:
        assert (await caller.reserve(event_id, "ann")).status == 201


async def addresses(sale: Sale) -> tuple[set[str], set[str | None]]:
    """How others than us are connected: to Redis, to Postgres."""
    async with sale.redis() as redis:
        clients = [each for each in await redis.client_list() if each["cmd"] != "client|list"]
    rows = await sale.sql(
        "SELECT client_addr FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    ways = {"socket" if "U" in each["flags"] else each["addr"] for each in clients}
    return ways, {row["client_addr"] for row in rows}


async def test_servers_of_onsale_up(sale: Sale) -> None:
    """People are told the ports, programs the sockets."""
    await reserve(sale, await sale.open_event(10))
    assert await addresses(sale) == ({"socket"}, {None})
    assert sale.redis_url.startswith("redis://:")
    assert "@127.0.0.1:" in sale.redis_url
    assert "@127.0.0.1:" in sale.database_url


async def test_servers_that_somebody_names(tmp_path: Path, named: Named) -> None:
    """``unix://`` and ``?host=`` do for the API, a worker and every command."""
    settings = {"REDIS_URL": named.redis, "DATABASE_URL": named.postgres}
    with world.sale(tmp_path, api_workers=1, workers=1, **settings) as sale:
        await reserve(sale, await sale.open_event(10))
        assert await addresses(sale) == ({"socket"}, {None})
        for command in ("status", "migrate", "events list", "redis PING", "psql -c SELECT"):
            done = await asyncio.to_thread(sale.onsale, *command.split())
            assert done.returncode == 0, (command, done.stderr)
        check = [sys.executable, "-m", "worker", "--check"]
        environment = world.environment(**settings)
        assert await asyncio.to_thread(subprocess.call, check, env=environment) == 0
        await sale.count_seats()
        assert (await sale.reconcile()).returncode == 0


async def test_doctor_looks_at_the_disks_of_this_machine(named: Named) -> None:
    """A server with a socket is on it, however the socket is named."""
    for dsn in (named.postgres, named.postgres_otherwise):
        settings = Settings(_env_file=None, redis_url=named.redis, database_url=dsn)
        disks = (await read(settings)).machine.disks
        assert [disk.whose for disk in disks] == ["Redis", "Postgres"]


def test_the_command_for_a_redis_with_a_socket(tmp_path: Path) -> None:
    """redis-cli takes no such address; ours does."""
    command = redis_command("unix:///run/redis.sock", tmp_path)
    assert command[-3:] == ["redis", "--data", str(tmp_path)]
