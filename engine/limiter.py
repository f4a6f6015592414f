"""The rate limit: how many calls a caller may make in a window, in all processes together.

Calls that arrive while a script call is in flight go together in the next one, as in admission. The
limit protects the service and decides nothing, so without Redis it goes on in this process alone.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from redis.exceptions import NoScriptError

from engine import keys
from engine.errors import RedisAway
from engine.scripts import unfenced
from engine.tasks import stop
from engine.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.asyncio import Redis

MAX_CALLERS: Final = 500
MAX_REMEMBERED: Final = 100_000


class Allowance(NamedTuple):
    """What a caller's limit says of one call: 0 ms to wait if it passes."""

    wait_ms: int
    remaining: int
    """How many more would pass now."""
    reset_ms: int
    """When he has used nothing, if he makes no more."""


UNLIMITED: Final = Allowance(0, 0, 0)


class Limiter:
    """Lets callers pass."""

    def __init__(self, redis: Redis, *, max_calls: int, window_ms: int) -> None:
        self._wire = Wire(redis.connection_pool)
        self._max = max_calls
        self._window_ms = window_ms
        self._waiting: dict[str, list[asyncio.Future[Allowance]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._used_until_s: dict[str, float] = {}

    async def admit(self, caller: str) -> Allowance:
        """Make one call."""
        answer: asyncio.Future[Allowance] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, []).append(answer)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask())
        return await answer

    async def close(self) -> None:
        """Stop. Who waits is let in no more."""
        if self._task:
            await stop(self._task)
        await self._wire.close()

    async def _ask(self) -> None:
        while self._waiting:
            batch = {
                caller: self._waiting.pop(caller) for caller in list(self._waiting)[:MAX_CALLERS]
            }
            counts = {caller: len(calls) for caller, calls in batch.items()}
            try:
                answers = await self._ask_redis(counts)
            except RedisAway:
                answers = self._alone(counts)
            for calls, answer in zip(batch.values(), _by_fours(answers), strict=True):
                _tell(calls, *answer)

    async def _ask_redis(self, counts: dict[str, int]) -> list[int]:
        by_digest, with_text = unfenced(
            "limit",
            len(counts),
            *map(keys.limit, counts),
            self._max,
            self._window_ms,
            *counts.values(),
        )
        (reply,) = await self._wire.exchange(by_digest)
        if isinstance(reply, NoScriptError):
            (reply,) = await self._wire.exchange(with_text)
        if isinstance(reply, Exception):
            raise RedisAway(f"Redis answered: {reply}")
        answers: list[int] = reply
        return answers

    def _alone(self, counts: dict[str, int]) -> list[int]:
        """What ``limit.lua`` does, for this process."""
        if len(self._used_until_s) > MAX_REMEMBERED:
            self._used_until_s.clear()
        now_s, window_s = time.monotonic(), self._window_ms / 1000
        step_s = window_s / self._max
        answers = []
        for caller, calls in counts.items():
            used_until_s = max(self._used_until_s.get(caller, 0.0), now_s)
            room = int((now_s + window_s - used_until_s) / step_s + 0.001)
            passed = min(calls, max(room, 0))
            used_until_s += passed * step_s
            self._used_until_s[caller] = used_until_s
            wait_ms = max(0, int((used_until_s + step_s - window_s - now_s) * 1000) + 1)
            reset_ms = int((used_until_s - now_s) * 1000) + 1
            answers += [passed, wait_ms, max(0, room - passed), reset_ms]
        return answers


def _tell(
    calls: list[asyncio.Future[Allowance]],
    passed: int,
    wait_ms: int,
    remaining: int,
    reset_ms: int,
) -> None:
    """Answer the calls of one caller, in order."""
    for place, call in enumerate(calls):
        if call.done():
            continue
        if place < passed:
            call.set_result(Allowance(0, remaining + passed - place - 1, reset_ms))
        else:
            call.set_result(Allowance(max(1, wait_ms), 0, reset_ms))


def _by_fours(answers: list[int]) -> Iterator[tuple[int, ...]]:
    """The answers of each caller."""
    return zip(*[iter(answers)] * 4, strict=True)
