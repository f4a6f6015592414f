"""One connection to Redis of our own: several commands in one write, their replies in order.

redis-py takes a connection from a pool for each command and gives it back, makes a task for each
write and a timer for each read, and packs commands in Python: that costs more than the command
does. It is used as it is where that does not matter. Here it connects and says hello; then what
Redis sends goes to ``_Replies``, so that nobody is woken before all that he waits for has come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

from engine import metrics
from engine.errors import REDIS_ERRORS, RedisAway

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from redis.asyncio import ConnectionPool
    from redis.asyncio.connection import AbstractConnection

    from engine.scripts import Command

IDLE_S: Final = 0.05
NOT_ENOUGH: Final = object()


class _Replies(asyncio.Protocol):
    """What comes from Redis, from redis-py's hello on."""

    def __init__(self, before: asyncio.BaseProtocol) -> None:
        self.came: deque[Any] = deque()
        self.is_lost = False
        self._before = before
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=BaseParser.parse_error,
            notEnoughData=NOT_ENOUGH,
        )
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self, count: int) -> None:
        """Wait until so many replies are there.

        Raises:
            REDIS_ERRORS: they will not come.
        """
        if len(self.came) >= count:
            return
        if self.is_lost:
            raise RedisConnectionError("the connection was lost")
        self._wanted = count
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not NOT_ENOUGH:
                self.came.append(reply)
        except InvalidResponse as error:
            self._end(error)
        if self._waiter and not self._waiter.done() and len(self.came) >= self._wanted:
            self._waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits, and redis-py, which may wait for the end."""
        self._end(RedisConnectionError(f"the connection was lost: {exc}"))
        self._before.connection_lost(exc)

    def _end(self, error: Exception) -> None:
        self.is_lost = True
        if self._waiter and not self._waiter.done():
            self._waiter.set_exception(error)


class Wire:
    """A connection that is made when it is needed, and never sends a command twice.

    It has one user at a time. Who leaves before he has read all his replies calls ``drop``.

    Args:
        pool: whose settings it takes. Its ``socket_timeout`` is for an exchange, not for each of
            its steps: see ``timeout``.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        kwargs = pool.connection_kwargs
        self._timeout_s: float = kwargs["socket_timeout"]
        self._connection: AbstractConnection = pool.connection_class(
            **kwargs | {"socket_timeout": None}
        )
        self._replies: _Replies | None = None
        self._transport: asyncio.WriteTransport
        self._used_at_s = 0.0

    def timeout(self) -> asyncio.Timeout:
        """What bounds an exchange; ``exchange`` has it."""
        return asyncio.timeout(self._timeout_s)

    async def send(self, commands: Sequence[Command]) -> None:
        """Send commands in one write. To be called within ``timeout``.

        Raises:
            REDIS_ERRORS: it cannot be known which of them were received.
        """
        await self._connect()
        packed = [hiredis.pack_command(each) for each in commands]  # type: ignore[arg-type]  # (its stub: a tuple of one)
        self._transport.write(b"".join(packed))

    async def reply(self) -> Any:
        """Read the next reply, within ``timeout``; what Redis refused is returned, not raised.

        Raises:
            REDIS_ERRORS: it will not come.
        """
        (reply,) = await self.replies(1)
        return reply

    async def replies(self, count: int | None = None) -> list[Any]:
        """Read the next replies, as ``reply`` does; without a count all that are there."""
        if self._replies is None:
            raise RedisConnectionError("the connection was dropped")
        await self._replies.wait(count or 1)
        came = self._replies.came
        replies = [came.popleft() for _ in range(count or len(came))]
        for reply in replies:
            if isinstance(reply, RedisConnectionError):  # it is loading, or has too many clients
                raise reply
        return replies

    async def exchange(self, *commands: Command, replies: int | None = None) -> list[Any]:
        """Send commands, and read their replies, or the first of them.

        The others are read later in the same way, with no commands.

        Raises:
            RedisAway: Redis does not answer.
        """
        try:
            async with self.timeout():
                if commands:
                    await self.send(commands)
                return await self.replies(len(commands) if replies is None else replies)
        except asyncio.CancelledError:
            await self.drop()
            raise
        except REDIS_ERRORS as error:
            metrics.REDIS_ERRORS.inc()
            await self.drop()
            raise RedisAway(f"Redis does not answer: {error!r}") from error

    async def messages(
        self, channels: Collection[str], *, check_s: float
    ) -> AsyncGenerator[tuple[bytes, bytes] | None, None]:
        """Subscribe, and hear what is published: a channel and a message each time.

        None comes first, when nothing is missed from here on. A connection that has been silent for
        ``check_s`` is asked for a sign of life.

        Raises:
            REDIS_ERRORS: the connection was lost, or gives no sign.
        """
        try:
            async with self.timeout():
                await self.send([("SUBSCRIBE", *channels)])
                await self.replies(len(channels))
            yield None
            while True:
                for kind, *message in await self._heard(check_s):
                    if kind == b"message":
                        channel, text = message
                        yield channel, text
        finally:
            await self.drop()

    async def _heard(self, check_s: float) -> list[Any]:
        """All that has come, at least one; or the answer to whether there is anybody."""
        with suppress(TimeoutError):
            async with asyncio.timeout(check_s):
                return await self.replies()
        self._transport.write(hiredis.pack_command(("PING",)))
        async with self.timeout():
            return await self.replies()

    async def drop(self) -> None:
        """Disconnect; the next command connects again."""
        self._replies = None
        await self._connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Disconnect, and see it closed."""
        self._replies = None
        with suppress(*REDIS_ERRORS):
            await self._connection.disconnect()

    async def _connect(self) -> None:
        """Be connected. After a pause, Redis may have gone away and come back unnoticed."""
        now_s = asyncio.get_running_loop().time()
        if self._replies and now_s - self._used_at_s > IDLE_S:
            await asyncio.sleep(0)  # the loop looks at the socket
            if self._replies.is_lost or self._replies.came:
                await self.drop()
        self._used_at_s = now_s
        if self._replies is None:
            await self._connection.connect()
            writer = self._connection._writer  # noqa: SLF001 - there is no other way to it
            assert writer is not None  # noqa: S101 - it has just connected
            self._transport = writer.transport
            self._replies = _Replies(self._transport.get_protocol())
            self._transport.set_protocol(self._replies)
