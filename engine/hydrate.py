"""Hydration: load an event that is cold in Redis from the ledger.

The order is what makes it right. First see the event cold: nothing of it can be sold any more. Then
read the last number given out, and wait until the ledger's mark has reached it: everything that was
sold is in the ledger. Only then read the rows. Without the wait, the ledger would later reject
bookings that Redis has accepted.

A change by hand while the rows are read takes the lease away (``repair`` and ``close`` do), and the
hydration begins again.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final

from engine import metrics
from engine.errors import Overloaded
from engine.log import get_logger
from engine.model import MAX_BATCH, Number

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from engine.ledger import Ledger
    from engine.scripts import Command, Scripts

LEASE_MS: Final = 10_000
POLL_S: Final = 0.01
PATIENCE_S: Final = 10.0
MAX_AT_ONCE: Final = 8
MISSING_S: Final = 2.0
MAX_MISSING: Final = 10_000

log = get_logger(__name__)


class Hydration:
    """Makes events warm, each once at a time in this process and in all of them."""

    def __init__(self, ledger: Ledger, redis: Redis) -> None:
        self._ledger = ledger
        self._redis = redis
        self._under_way: dict[int, asyncio.Task[bool]] = {}
        self._at_once = asyncio.Semaphore(MAX_AT_ONCE)
        self._missing: dict[int, float] = {}

    async def warm(self, event_id: int, scripts: Scripts) -> bool:
        """See an event warm; False if the ledger does not have it.

        Raises:
            Fenced: recover first.
            LedgerAway, RedisAway: it cannot be done now.
            Overloaded: the ledger is too far behind.
        """
        now_s = asyncio.get_running_loop().time()
        if self._missing.get(event_id, 0.0) > now_s:
            return False
        task = self._under_way.get(event_id)
        if task is None:
            task = asyncio.create_task(self._until_warm(event_id, scripts))
            self._under_way[event_id] = task
            task.add_done_callback(lambda _: self._under_way.pop(event_id, None))
        found = await asyncio.shield(task)
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

    async def _until_warm(self, event_id: int, scripts: Scripts) -> bool:
        try:
            async with self._at_once, asyncio.timeout(PATIENCE_S):
                while (exists := await self._once(event_id, scripts)) is None:  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise Overloaded(f"event {event_id} could not be loaded in time") from None
        return exists

    async def _once(self, event_id: int, scripts: Scripts) -> bool | None:
        """One attempt: whether the event exists, or None to try again."""
        if await self._ledger.event(event_id) is None:  # leave no key for what does not exist
            return False
        token = secrets.token_hex(8)
        leased = await self._call(scripts, scripts.lease(event_id, token, lease_ms=LEASE_MS))
        if isinstance(leased, bytes):
            return True if leased == b"warm" else None
        await self._ledger.mark_reaches(scripts.partition, Number(scripts.epoch, int(leased)))
        staged = await self._stage(event_id, token, scripts)
        if staged is None:
            return None
        # Read last: whoever changes it from now on finds the lease, or the warm event.
        found = await self._ledger.event(event_id)
        if found is None:
            return False
        event, _ = found
        command = scripts.install(
            event_id, token, total=event.total_seats, name=event.name, staged=staged
        )
        if await self._call(scripts, command) != b"installed":
            return None
        metrics.HYDRATIONS.inc()
        log.info("hydrated", event_id=event_id, epoch=scripts.epoch, bookings=staged)
        return True

    async def _stage(self, event_id: int, token: str, scripts: Scripts) -> int | None:
        """Page the ledger's rows into the staging; how many, or None if the lease is gone."""
        staged, last_user = 0, ""
        while rows := await self._ledger.bookings_after(event_id, last_user, MAX_BATCH):
            command = scripts.stage(event_id, token, rows, lease_ms=LEASE_MS)
            if await self._call(scripts, command) != b"staged":
                return None
            staged, last_user = staged + len(rows), rows[-1].user_id
        return staged

    async def _call(self, scripts: Scripts, command: Command) -> bytes | int:
        reply: bytes | int = await scripts.call(self._redis, command)
        return reply
