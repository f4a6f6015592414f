"""The road to Redis: one connection of a process for the script calls of all its partitions.

What arrives while calls are in flight gathers, and goes together in the next write, whichever
partitions it is for: many events that are sold at once cost one write, not one each. There is no
timer, so an idle engine adds no delay.

A call whose answer is lost is not sent again: its callers get ``RedisAway``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from engine import metrics
from engine.errors import REDIS_ERRORS, OnsaleError, RedisAway
from engine.log import get_logger
from engine.tasks import stop
from engine.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from redis.asyncio import ConnectionPool

    from engine.model import Sink
    from engine.scripts import Command

log = get_logger(__name__)

MAX_CALLS_A_WRITE: Final = 64
"""No further lane is asked for its calls beyond that."""


class Call(NamedTuple):
    """A command on its way, who gets its reply, and who is told of its failure."""

    command: Command
    resolve: Callable[[Any], None]
    answers: Sequence[Sink[Any]]


class Lane(Protocol):
    """Where calls come from."""

    @property
    def queued(self) -> int:
        """How many requests wait."""
        ...

    def take(self) -> list[Call]:
        """What of them goes into the next write: something, and a bounded part."""
        ...


class Road:
    """Takes the calls of lanes to Redis, a write at a time."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._wire = Wire(pool)
        self._waiting: dict[Lane, None] = {}
        self._arrived = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="road")

    def arrive(self, lane: Lane) -> None:
        """Say that a lane has something."""
        self._waiting[lane] = None
        self._arrived.set()

    async def close(self) -> None:
        """Stop. What is queued gets ``RedisAway``."""
        await stop(self._task)
        while calls := self._take():
            _fail(calls, RedisAway("the engine is shutting down"))
        await self._wire.close()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while calls := self._take():
                await self._exchange(calls)

    def _take(self) -> list[Call]:
        """What goes into the next write, lanes in turn."""
        calls: list[Call] = []
        for lane in list(self._waiting):
            if len(calls) >= MAX_CALLS_A_WRITE:
                break
            del self._waiting[lane]
            calls += lane.take()
            if lane.queued:
                self._waiting[lane] = None  # at the back of the line
        return calls

    async def _exchange(self, calls: list[Call]) -> None:
        """One write, and its replies in order."""
        waiting = deque(calls)
        try:
            async with self._wire.timeout():
                await self._wire.send([call.command for call in calls])
                while waiting:
                    reply = await self._wire.reply()
                    _settle(waiting[0], reply)
                    waiting.popleft()
        except asyncio.CancelledError:
            await self._give_up(waiting, "the engine is shutting down")
            raise
        except REDIS_ERRORS as error:
            await self._give_up(waiting, f"Redis does not answer: {error!r}")
        except Exception:  # a road that ended would leave its callers waiting for ever
            log.exception("road_failed")
            await self._give_up(waiting, "the answer of Redis was not understood")

    async def _give_up(self, calls: Iterable[Call], reason: str) -> None:
        metrics.REDIS_ERRORS.inc()
        _fail(calls, RedisAway(reason))
        await self._wire.drop()


def _settle(call: Call, reply: Any) -> None:
    try:
        call.resolve(reply)
    except OnsaleError as error:
        _fail([call], error)


def _fail(calls: Iterable[Call], error: Exception) -> None:
    for call in calls:
        for answer in call.answers:
            if not answer.done():
                answer.set_exception(error)
