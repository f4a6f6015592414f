"""The rate limit: how many calls a caller may make in a window, in all processes together.

Calls that arrive while a script call is in flight go together in the next one, as in admission. The
limit protects the service and decides nothing, so without Redis it goes on in this process alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis.exceptions import NoScriptError

from engine import keys
from engine.errors import RedisAway
from engine.road import Call
from engine.scripts import unfenced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.road import Road

MAX_CALLERS: Final = 500
MAX_REMEMBERED: Final = 100_000


class Allowance(NamedTuple):
    """What a caller's limit says of one call: 0 ms to wait if it passes."""

    wait_ms: int
    remaining: int
    """How many more would pass now."""
    reset_ms: int
    """When he has used nothing, if he makes no more."""


Tell = Callable[[Allowance], None]
"""Who is told what came of a call; he must not raise."""

UNLIMITED: Final = Allowance(0, 0, 0)


class Limiter:
    """Lets callers pass. It is a lane of the road to Redis: see ``engine/road.py``."""

    def __init__(self, road: Road, *, max_calls: int, window_ms: int) -> None:
        self._road = road
        self._max = max_calls
        self._window_ms = window_ms
        self.queued = 0
        self._waiting: dict[str, list[Tell]] = {}
        self._is_known = True
        """Whether Redis has the script, as far as we know."""
        self._used_until_s: dict[str, float] = {}
        self._loop = asyncio.get_running_loop()  # to ask for it each time is a system call

    async def admit(self, caller: str) -> Allowance:
        """Make one call."""
        answer: asyncio.Future[Allowance] = self._loop.create_future()

        def tell(allowance: Allowance) -> None:
            if not answer.done():
                answer.set_result(allowance)

        self.ask(caller, tell)
        return await answer

    def ask(self, caller: str, tell: Tell) -> None:
        """``admit`` for who is not a task."""
        self._put(caller, [tell])

    def take(self) -> list[Call]:
        """The next batch: one script call for all of its callers."""
        batch = {caller: self._waiting.pop(caller) for caller in list(self._waiting)[:MAX_CALLERS]}
        self.queued -= sum(map(len, batch.values()))
        by_digest, with_text = unfenced(
            "limit",
            len(batch),
            *map(keys.limit, batch),
            self._max,
            self._window_ms,
            *map(len, batch.values()),
        )

        def resolve(reply: Any) -> None:
            self._is_known = not isinstance(reply, NoScriptError)
            if not self._is_known:
                for caller, calls in batch.items():
                    self._put(caller, calls)
                return
            if isinstance(reply, Exception):
                raise RedisAway(f"Redis answered: {reply}")
            answers = list(zip(batch.values(), _by_fours(reply), strict=True))
            for calls, answer in answers:  # all are there: who is told is not told again
                _tell(calls, *answer)

        command = by_digest if self._is_known else with_text
        return [Call(command, resolve, [_Unanswered(self._alone, batch)])]

    def _put(self, caller: str, calls: list[Tell]) -> None:
        self._waiting.setdefault(caller, []).extend(calls)
        self.queued += len(calls)
        self._road.arrive(self)

    def _alone(self, caller: str) -> Allowance:
        """What ``limit.lua`` does for one call, for this process."""
        if len(self._used_until_s) > MAX_REMEMBERED:
            self._used_until_s.clear()
        now_s, window_s = time.monotonic(), self._window_ms / 1000
        step_s = window_s / self._max
        used_until_s = max(self._used_until_s.get(caller, 0.0), now_s)
        room = int((now_s + window_s - used_until_s) / step_s + 0.001)
        if room > 0:
            used_until_s += step_s
            self._used_until_s[caller] = used_until_s
        wait_s = used_until_s + step_s - window_s - now_s
        wait_ms = 0 if room > 0 else max(0, int(wait_s * 1000)) + 1
        return Allowance(wait_ms, max(0, room - 1), int((used_until_s - now_s) * 1000) + 1)


class _Unanswered:
    """Where the news goes that Redis is away: each caller of a batch is then told by ``alone``."""

    def __init__(self, alone: Callable[[str], Allowance], batch: dict[str, list[Tell]]) -> None:
        self._alone = alone
        self._batch = batch

    def done(self) -> bool:
        """Never; who was answered is not told of failures."""
        return False

    def set_result(self, _: object) -> None:
        """Nothing: the batch is answered as a whole."""

    def set_exception(self, _: Exception) -> None:
        """Answer all of them."""
        for caller, calls in self._batch.items():
            for tell in calls:
                tell(self._alone(caller))


def _tell(calls: list[Tell], passed: int, wait_ms: int, remaining: int, reset_ms: int) -> None:
    """Answer the calls of one caller, in order."""
    for place, tell in enumerate(calls):
        if place < passed:
            tell(Allowance(0, remaining + passed - place - 1, reset_ms))
        else:
            tell(Allowance(max(1, wait_ms), 0, reset_ms))


def _by_fours(answers: list[int]) -> Iterator[tuple[int, ...]]:
    """The answers of each caller."""
    return zip(*[iter(answers)] * 4, strict=True)
