"""A wire: commands in one write, their replies in order, and nothing sent twice."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import ConnectionPool
from redis.exceptions import NoScriptError

from engine.errors import REDIS_ERRORS, RedisAway
from engine.wire import IDLE_S, Wire
from tests import world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.engine.house import Shop

TIMEOUT_S = 0.5


@asynccontextmanager
async def _wire(shop: Shop) -> AsyncIterator[Wire]:
    wire = Wire(shop.redis.connection_pool)
    yield wire
    await wire.close()


@asynccontextmanager
async def _server(*answers: bytes, to: bytes = b"PING", hangs: bool = False) -> AsyncIterator[Wire]:
    """Somebody who takes redis-py's hello for what it is, then sends this and closes, or hangs."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while to not in (said := await reader.read(4096)) and said:
            writer.write(b"+OK\r\n" * said.count(b"CLIENT"))
        for part in answers:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if hangs:
            await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        wire = Wire(
            ConnectionPool(port=port, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        )
        yield wire
        await wire.close()


async def test_replies_come_in_order(shop: Shop) -> None:
    """Also those that Redis refuses: each is the reply of its own command."""
    async with _wire(shop) as wire:
        replies = await wire.exchange(
            ("ECHO", "Чайка"), ("EVALSHA", "0" * 40, 0), ("ECHO", 7), ("ECHO", b"\xff")
        )
    first, refused, *rest = replies
    assert first == "Чайка".encode()
    assert isinstance(refused, NoScriptError)
    assert rest == [b"7", b"\xff"]


async def test_reply_in_pieces() -> None:
    """Whoever waits is woken when it is whole."""
    async with _server(b"$5\r\nhe", b"llo\r", b"\n") as wire:
        assert await wire.exchange(("PING",)) == [b"hello"]


async def test_reply_one_by_one(shop: Shop) -> None:
    """The first can be read before the second is there."""
    async with _wire(shop) as wire, wire.timeout():
        await wire.send([("ECHO", "first"), ("XREAD", "BLOCK", 100, "STREAMS", "nothing", "0-0")])
        assert await wire.reply() == b"first"
        assert await wire.reply() is None


@pytest.mark.parametrize("answers", [(), (b"+half an ans",), (b"rubbish\r\n",)])
async def test_connection_that_ends(answers: tuple[bytes, ...]) -> None:
    """Who waits is told, and not after the timeout."""
    async with _server(*answers) as wire:
        with pytest.raises(RedisAway, match=r"lost|rotocol"):
            await wire.exchange(("PING",))


async def test_redis_that_is_loading() -> None:
    """It is away, whatever its reply looks like."""
    async with _server(b"-LOADING Redis is loading the dataset in memory\r\n") as wire:
        with pytest.raises(RedisAway, match="loading"):
            await wire.exchange(("PING",))


async def test_too_late(shop: Shop) -> None:
    """What was not answered in time is dropped, with the reply that may still come."""
    pool = ConnectionPool(
        **shop.redis.connection_pool.connection_kwargs | {"socket_timeout": TIMEOUT_S}
    )
    wire = Wire(pool)
    with pytest.raises(RedisAway, match="Timeout"):
        await wire.exchange(("XREAD", "BLOCK", 0, "STREAMS", "nothing", "0-0"))
    assert await wire.exchange(("ECHO", "on")) == [b"on"]
    await wire.close()


async def test_connection_that_ended_in_a_pause(shop: Shop) -> None:
    """It is made anew, and nobody notices."""
    async with _wire(shop) as wire:
        (mine,) = await wire.exchange(("CLIENT", "ID"))
        await shop.redis.client_kill_filter(_id=mine)
        await asyncio.sleep(IDLE_S * 2)  # the pause, not a wait for something
        assert await wire.exchange(("ECHO", "on")) == [b"on"]


async def test_closed_is_closed(shop: Shop) -> None:
    """Redis has a connection less."""
    async with _wire(shop) as wire:
        (mine,) = await wire.exchange(("CLIENT", "ID"))

    async def gone() -> bool:
        return all(int(each["id"]) != mine for each in await shop.redis.client_list())

    await world.until(gone)


async def test_messages_are_heard_in_order(shop: Shop) -> None:
    """From the moment on that is said, and from the channels that were asked for."""
    async with _wire(shop) as wire, aclosing(wire.messages(["a", "b"], check_s=60)) as heard:
        assert await anext(heard) is None
        for channel, message in (("a", "1"), ("b", "2"), ("c", "3"), ("a", "4")):
            await shop.redis.publish(channel, message)
        assert [await anext(heard) for _ in range(3)] == [(b"a", b"1"), (b"b", b"2"), (b"a", b"4")]


async def test_silence_is_no_end(shop: Shop) -> None:
    """Redis is asked whether it is there, and then goes on to be heard."""
    async with _wire(shop) as wire, aclosing(wire.messages(["a"], check_s=0.02)) as heard:
        assert await anext(heard) is None
        next_one = asyncio.ensure_future(anext(heard))

        async def pinged() -> bool:
            clients = await shop.redis.client_list()
            return any(each["sub"] == "1" and each["cmd"] == "ping" for each in clients)

        await world.until(pinged)
        await shop.redis.publish("a", "still here")
        assert await next_one == (b"a", b"still here")


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("answers", [(), (b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",)])
async def test_nobody_listens_to_a_redis_that_is_gone(
    answers: tuple[bytes, ...], *, hangs: bool
) -> None:
    """Whether it ended or hangs, before or after it said yes: messages may have been missed."""
    async with _server(*answers, to=b"SUBSCRIBE", hangs=hangs) as wire:
        with pytest.raises(REDIS_ERRORS):
            assert [each async for each in wire.messages(["a"], check_s=0.02)] == []
