"""Servers of our own: the Unix socket that each has besides its port."""

from __future__ import annotations

import socket
import stat
from typing import TYPE_CHECKING

import asyncpg
import pytest
import uvloop
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from engine.embedded import MOST_SOCKET_BYTES, PostgresServer, RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.embedded import Server

AWKWARD = """a "b','%20?#[é]\\;@:*"""
KINDS = pytest.mark.parametrize("kind", [RedisServer, PostgresServer])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name says something else to every parser."""
    return tmp_path_factory.mktemp("s") / AWKWARD


@pytest.fixture(scope="module")
def redis(folder: Path) -> Iterator[RedisServer]:
    """One Redis for this file."""
    with RedisServer(folder / "redis") as server:
        yield server


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[PostgresServer]:
    """One Postgres for this file."""
    with PostgresServer(folder / "postgres") as server:
        yield server


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the two in turn."""
    server: Server = request.getfixturevalue(request.param)
    return server


def comes_by_socket(url: str) -> bool:
    """How a program that uses this address is connected, says the server."""
    return uvloop.run(_comes_by_socket(url))


async def _comes_by_socket(url: str) -> bool:
    if url.startswith("postgresql:"):
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval("SELECT inet_client_addr()") is None
        finally:
            await connection.close()
    async with Redis.from_url(url) as redis:
        return "U" in (await redis.client_info())["flags"]


def sockets(server: Server) -> list[Path]:
    """What a server has to be connected to in its folder."""
    return [path for path in server.data_dir.iterdir() if path.is_socket()]


def test_both_ways_in(server: Server) -> None:
    """Whatever the name of the folder, and for programs with uvloop, as ours are."""
    assert comes_by_socket(server.local_url)
    assert not comes_by_socket(server.url)


def test_the_socket_is_private(server: Server) -> None:
    """Nobody else may connect."""
    (path,) = sockets(server)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_the_password_applies(server: Server) -> None:
    """To the socket as to the port."""
    password = (server.data_dir / "password").read_text()
    with pytest.raises((asyncpg.InvalidPasswordError, RedisConnectionError), match="password"):
        comes_by_socket(server.local_url.replace(password, "guessed"))


def test_another_database_of_redis(redis: RedisServer) -> None:
    """Is named the same way, socket or not."""

    async def database(url: str) -> int:
        async with Redis.from_url(f"{url}?db=3") as client:
            return int((await client.client_info())["db"])

    assert [uvloop.run(database(url)) for url in (redis.local_url, redis.url)] == [3, 3]


def test_a_socket_that_was_left_behind(postgres: PostgresServer, redis: RedisServer) -> None:
    """By a killed server, or one that had another port; and a process lives that its lock names."""
    postgres.kill()
    redis.kill()
    assert sockets(postgres)
    assert sockets(redis)
    redis.start()
    for port in (postgres.port, 1):
        (postgres.data_dir / f".s.PGSQL.{port}.lock").write_text(f"{redis.pid}\n")
    postgres.start()
    assert comes_by_socket(postgres.local_url)
    assert comes_by_socket(redis.local_url)
    assert len(list(postgres.data_dir.glob("*.lock"))) == 1


@KINDS
def test_the_longest_path(kind: type[RedisServer | PostgresServer], tmp_path: Path) -> None:
    """Of a socket is counted in bytes. Beyond it programs take the port, and the server starts."""
    name = {RedisServer: "redis.sock", PostgresServer: ".s.PGSQL.20000"}[kind]
    room = MOST_SOCKET_BYTES - len(str(tmp_path / name).encode()) - len("/")
    longest = tmp_path / ("é" * (room // 2) + "e" * (room % 2))
    with kind(longest) as server:
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(str(sockets(server)[0]))
        assert comes_by_socket(server.local_url)
    longest.rename(longer := longest.with_name(longest.name + "e"))
    with kind(longer) as server, socket.socket(socket.AF_UNIX) as plain:
        with pytest.raises(OSError, match="too long"):
            plain.connect(str(sockets(server)[0]))
        assert server.local_url == server.url
        assert not comes_by_socket(server.local_url)


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    """No URL can name it: the port remains."""
    with RedisServer(tmp_path / "\udcff") as server:
        assert server.local_url == server.url
        assert not comes_by_socket(server.local_url)
