"""One connection to Redis of our own: several commands in one write, their replies in order.

redis-py takes a connection from a pool for each command and gives it back, makes a task for each
write and a timer for each read: that costs more than the command does. It is used as it is where
that does not matter.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from engine import metrics
from engine.errors import REDIS_ERRORS, RedisAway

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import ConnectionPool
    from redis.asyncio.connection import AbstractConnection

    from engine.scripts import Command

IDLE_S: Final = 0.05


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
        packed = self._connection.pack_commands(commands)
        await self._connection.send_packed_command(packed, check_health=False)

    async def reply(self) -> Any:
        """Read the next reply, within ``timeout``; what Redis refused is returned, not raised.

        Raises:
            REDIS_ERRORS: it will not come.
        """
        try:
            return await self._connection.read_response(disable_decoding=True)
        except ResponseError as error:  # a reply like any other: the next one follows it
            return error

    async def exchange(self, *commands: Command) -> list[Any]:
        """Send commands, and read their replies.

        Raises:
            RedisAway: Redis does not answer.
        """
        try:
            async with self.timeout():
                await self.send(commands)
                return [await self.reply() for _ in commands]
        except asyncio.CancelledError:
            await self.drop()
            raise
        except REDIS_ERRORS as error:
            metrics.REDIS_ERRORS.inc()
            await self.drop()
            raise RedisAway(f"Redis does not answer: {error!r}") from error

    async def drop(self) -> None:
        """Disconnect; the next command connects again."""
        await self._connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Disconnect, and see it closed."""
        with suppress(*REDIS_ERRORS):
            await self._connection.disconnect()

    async def _connect(self) -> None:
        """Be connected. After a pause, Redis may have gone away and come back unnoticed."""
        connection, now_s = self._connection, asyncio.get_running_loop().time()
        idle = now_s - self._used_at_s > IDLE_S
        if idle and connection.is_connected and await connection.can_read_destructive():
            await connection.disconnect(nowait=True)
        self._used_at_s = now_s
        await connection.connect()
