"""Hydration: load an event that is cold in Redis from the ledger.

The order is what makes it right. First see the event cold: nothing of it can be sold any more. Then
read the last number given out, and wait until the ledger's mark has reached it: everything that was
sold is in the ledger. Only then read the rows. Without the wait, the ledger would later reject
bookings that Redis has accepted.

A change by hand while the rows are read takes the lease away (``repair`` and ``close`` do), and the
hydration begins again.

After a restart of Redis every event is cold, and all are asked for at once. The next step that this
process takes (a look-up, a page of rows) is always one of the event for which the most callers
wait. So a hot event is loaded as if it were alone, and the others around it. A caller's patience
ends, but not the load, so that the largest event is warm in the end.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from engine import metrics
from engine.errors import Overloaded
from engine.log import get_logger
from engine.model import MAX_BATCH, Number

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from redis.asyncio import Redis

    from engine.ledger import Ledger, LedgerRow
    from engine.scripts import Command, Scripts

LEASE_MS: Final = 10_000
FIRST_PAUSE_S: Final = 0.01
LONGEST_PAUSE_S: Final = 0.2
PATIENCE_S: Final = 10.0
MAX_AT_ONCE: Final = 2
"""Steps; one reads a page while the one before it is written, so two keep this process busy."""
MISSING_S: Final = 2.0
MAX_MISSING: Final = 10_000

log = get_logger(__name__)


class _Load:
    """One event on its way into Redis, and how many callers wait for it."""

    def __init__(self, event_id: int, scripts: Scripts) -> None:
        self.event_id = event_id
        self.scripts = scripts
        self.callers = 0


class _Turns:
    """Lets at most so many go at once. The next one is of the load with the most callers."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: dict[asyncio.Future[None], _Load] = {}

    @asynccontextmanager
    async def turn(self, load: _Load) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the body."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(load)
        try:
            yield
        finally:  # in a moment: who goes on with his next step at once takes part
            asyncio.get_running_loop().call_soon(self._pass_on)

    async def _wait(self, load: _Load) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = load
        try:
            await turn
        except asyncio.CancelledError:
            if self._waiting.pop(turn, None) is None:  # it had come
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        waiting = [turn for turn in self._waiting if not turn.done()]
        if waiting:
            turn = max(waiting, key=lambda turn: self._waiting[turn].callers)
            del self._waiting[turn]
            turn.set_result(None)
        else:
            self._free += 1


class Hydration:
    """Makes events warm, each once at a time in this process and in all of them."""

    def __init__(self, ledger: Ledger, redis: Redis) -> None:
        self._ledger = ledger
        self._redis = redis
        self._under_way: dict[int, tuple[_Load, asyncio.Task[bool]]] = {}
        self._turns = _Turns(MAX_AT_ONCE)
        self._missing: dict[int, float] = {}

    async def warm(self, event_id: int, scripts: Scripts) -> bool:
        """See an event warm; False if the ledger does not have it.

        Raises:
            Fenced: recover first.
            LedgerAway, RedisAway: it cannot be done now.
            Overloaded: it takes longer than a caller should wait. The load goes on.
        """
        now_s = asyncio.get_running_loop().time()
        if self._missing.get(event_id, 0.0) > now_s:
            return False
        load, task = self._under_way.get(event_id) or self._begin(event_id, scripts)
        load.callers += 1
        try:
            found = await asyncio.wait_for(asyncio.shield(task), PATIENCE_S)
        except TimeoutError:
            raise Overloaded(f"event {event_id} could not be loaded in time") from None
        finally:
            load.callers -= 1
        if not found:
            self._note_missing(event_id)
        return found

    def appeared(self, event_id: int | None) -> None:
        """Forget that an event (or any event) was not in the ledger."""
        if event_id is None:
            self._missing.clear()
        else:
            self._missing.pop(event_id, None)

    def _note_missing(self, event_id: int) -> None:
        if len(self._missing) >= MAX_MISSING:
            self._missing.clear()
        self._missing[event_id] = asyncio.get_running_loop().time() + MISSING_S

    def _begin(self, event_id: int, scripts: Scripts) -> tuple[_Load, asyncio.Task[bool]]:
        load = _Load(event_id, scripts)
        task = asyncio.create_task(self._until_warm(load))

        def ended(task: asyncio.Task[bool]) -> None:
            del self._under_way[event_id]
            if not task.cancelled():
                task.exception()  # nobody may be left to hear of it

        task.add_done_callback(ended)
        self._under_way[event_id] = load, task
        return load, task

    async def _until_warm(self, load: _Load) -> bool:
        async with self._turns.turn(load):
            if await self._ledger.event(load.event_id) is None:
                return False  # leave no key for what does not exist
        pauses = _pauses()
        while (exists := await self._once(load)) is None:  # noqa: ASYNC110 - see _pauses
            await asyncio.sleep(next(pauses))
        return exists

    async def _once(self, load: _Load) -> bool | None:
        """One attempt: whether the event exists, or None to try again."""
        token = secrets.token_hex(8)
        async with self._turns.turn(load):
            command = load.scripts.lease(load.event_id, token, lease_ms=LEASE_MS)
            leased = await self._call(load, command)
        if isinstance(leased, bytes):
            return True if leased == b"warm" else None
        await self._mark_reaches(load, Number(load.scripts.epoch, leased))
        staged = await self._stage(load, token)
        return None if staged is None else await self._install(load, token, staged)

    async def _mark_reaches(self, load: _Load, number: Number) -> None:
        """Wait until the ledger has taken a number; only the looks take turns, not the wait."""
        pauses = _pauses()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await self._mark(load) < number:  # noqa: ASYNC110 - in Postgres
                    await asyncio.sleep(next(pauses))
        except TimeoutError:
            reason = f"the ledger is too far behind to load event {load.event_id}"
            raise Overloaded(reason) from None

    async def _mark(self, load: _Load) -> Number:
        async with self._turns.turn(load):
            return (await self._ledger.partition(load.scripts.partition)).mark

    async def _stage(self, load: _Load, token: str) -> int | None:
        """Page the ledger's rows into the staging; how many, or None if the lease is gone.

        While a page is written, the next one is read.
        """
        staged = 0
        async with self._turns.turn(load):
            rows = await self._rows_after(load, "")
        while rows:
            command = load.scripts.stage(load.event_id, token, rows, lease_ms=LEASE_MS)
            async with self._turns.turn(load):
                reply, following = await asyncio.gather(
                    self._call(load, command), self._rows_after(load, rows[-1].user_id)
                )
            if reply != b"staged":
                return None
            staged, rows = staged + len(rows), following
        return staged

    async def _rows_after(self, load: _Load, user_id: str) -> list[LedgerRow]:
        return await self._ledger.bookings_after(load.event_id, user_id, MAX_BATCH)

    async def _install(self, load: _Load, token: str, staged: int) -> bool | None:
        """Open the event for sale; None if the lease is gone, False if the event is."""
        async with self._turns.turn(load):
            # Read last: whoever changes it from now on finds the lease, or the warm event.
            found = await self._ledger.event(load.event_id)
            if found is None:
                return False
            event, _ = found
            command = load.scripts.install(event, token, staged=staged)
            if await self._call(load, command) != b"installed":
                return None
        metrics.HYDRATIONS.inc()
        log.info("hydrated", event_id=event.id, epoch=load.scripts.epoch, bookings=staged)
        return True

    async def _call(self, load: _Load, command: Command) -> bytes | int:
        reply: bytes | int = await load.scripts.call(self._redis, command)
        return reply


def _pauses() -> Iterator[float]:
    """Between one look and the next, in seconds: each twice as long, up to a bound."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
