"""The proxy: it passes, and misbehaves only to order."""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from bench.drill.proxy import HOST, Proxy, Trap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Connect = Callable[[], Awaitable["Client"]]

SOON_S = 0.2
BOUND_S = 10.0


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy before a server that says everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError):
            while data := await reader.read(100):
                writer.write(data)

    server = await asyncio.start_server(echo, HOST, 0)
    proxy = Proxy(server.sockets[0].getsockname()[:2])
    await proxy.open()
    yield proxy
    proxy.close()
    server.close()


class Client:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def say(self, text: bytes) -> bytes:
        """What came back; nothing where the connection was cut."""
        self._writer.write(text)
        try:
            return await asyncio.wait_for(self._reader.read(100), BOUND_S)
        except ConnectionError:
            return b""

    async def hears_nothing(self, text: bytes) -> bool:
        """Whether nothing at all comes back, not even an end."""
        self._writer.write(text)
        try:
            await asyncio.wait_for(self._reader.read(100), SOON_S)
        except TimeoutError:
            return True
        return False

    def hang_up(self) -> None:
        """Close the connection."""
        self._writer.close()


@pytest.fixture
async def connect(proxy: Proxy) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    """Connects through the proxy."""
    clients: list[Client] = []

    async def another() -> Client:
        clients.append(Client(*await asyncio.open_connection(HOST, proxy.port)))
        return clients[-1]

    yield another
    for client in clients:
        client.hang_up()


async def test_passes(proxy: Proxy, connect: Connect) -> None:
    """Nothing is asked of it: it is not there."""
    client = await connect()
    assert await client.say(b"one") == b"one"
    assert await client.say(b"two") == b"two"


async def test_delays(proxy: Proxy, connect: Connect) -> None:
    """In both directions, and in order."""
    client = await connect()
    proxy.delay_s = SOON_S
    begun_s = asyncio.get_running_loop().time()
    assert await client.say(b"one") == b"one"
    assert asyncio.get_running_loop().time() - begun_s >= 2 * SOON_S - 0.01


async def test_cuts_and_refuses(proxy: Proxy, connect: Connect) -> None:
    """Who is connected is cut off; who comes then gets nowhere until it is healed."""
    client = await connect()
    assert await client.say(b"one") == b"one"
    proxy.refusing = True
    proxy.cut()
    assert await client.say(b"two") == b""
    assert await (await connect()).say(b"three") == b""
    proxy.heal()
    assert await (await connect()).say(b"four") == b"four"


async def test_drops(proxy: Proxy, connect: Connect) -> None:
    """Not a word, and no end; a connection that lost a byte is never used again."""
    client = await connect()
    assert await client.say(b"one") == b"one"
    proxy.dropping = True
    assert await client.hears_nothing(b"two")
    proxy.dropping = False
    assert await client.hears_nothing(b"three")
    proxy.heal()
    assert await (await connect()).say(b"four") == b"four"


@pytest.mark.parametrize("at_answer", [False, True])
async def test_springs_a_trap_once(
    proxy: Proxy,
    connect: Connect,
    at_answer: bool,  # noqa: FBT001 - what is parametrized
) -> None:
    """At the first request that has the words in it; others pass."""
    sprung: list[int] = []
    proxy.trap = Trap((b"COMMIT",), lambda: sprung.append(1), at_answer=at_answer)
    client = await connect()
    assert await client.say(b"BEGIN") == b"BEGIN"
    assert await client.say(b"COMMIT") == b""
    assert sprung == [1]
    assert await (await connect()).say(b"COMMIT") == b"COMMIT"
    assert sprung == [1]


async def test_leads_to_another(proxy: Proxy, connect: Connect) -> None:
    """From one instant on."""

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            writer.write((await reader.read(100)).upper())

    async with await asyncio.start_server(shout, HOST, 0) as other:
        proxy.lead_to(other.sockets[0].getsockname()[:2])
        assert await (await connect()).say(b"one") == b"ONE"
