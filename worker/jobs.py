"""What arq runs: the ticks that hand out shifts, the shifts, and the reconciliation."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from engine.errors import LedgerAway, Unavailable
from engine.log import get_logger
from engine.reconcile import reconcile_event
from worker.drain import Shift

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from engine.ledger import Ledger
    from engine.recovery import Recovery

TICK_S: Final = 2
FULL_EVERY_MINUTES: Final = 15
RETRY_S: Final = 0.2

log = get_logger(__name__)


class Parts:
    """What the jobs of one worker process share."""

    def __init__(
        self, *, ledger: Ledger, redis: Redis, recovery: Recovery, partitions: int, name: str
    ) -> None:
        self.ledger = ledger
        self.redis = redis
        self.recovery = recovery
        self.partitions = partitions
        self.name = name
        self._changed: asyncio.Queue[str] = asyncio.Queue()

    async def reconcile(self, event_id: int, *, full: bool, users: list[str] | None = None) -> None:
        """Compare one event with the ledger, and mend Redis."""
        await reconcile_event(
            self.ledger,
            self.redis,
            self.recovery,
            event_id=event_id,
            partition=event_id % self.partitions,
            full=full,
            users=users,
        )

    async def hear_hands(self) -> None:
        """Make Redis follow changes by hand, as Postgres tells of them."""
        follow = asyncio.create_task(self._follow_hands())
        try:
            while True:
                try:
                    await self.ledger.listen(self._changed.put_nowait)
                except LedgerAway as error:
                    log.warning("hands_not_heard", reason=str(error))
                await asyncio.sleep(RETRY_S)
        finally:
            follow.cancel()

    async def _follow_hands(self) -> None:
        while True:
            news = await self._changed.get()
            try:
                await self._follow(news)
            except Unavailable as error:  # the cron job is the safety net
                log.warning("hand_not_followed", news=news, reason=str(error))

    async def _follow(self, news: str) -> None:
        kind, _, rest = news.partition(" ")
        if kind == "all":
            for event_id in await self.ledger.event_ids():
                await self.reconcile(event_id, full=False)
        elif kind == "event":
            event_id, _, users = rest.partition(" ")
            named = msgspec.json.decode(users, type=list[str]) if users else None
            await self.reconcile(int(event_id), full=True, users=named)


async def hand_out_shifts(ctx: dict[str, Any]) -> None:
    """At each tick, offer every partition to whoever is free."""
    parts: Parts = ctx["parts"]
    tick = int(time.time()) // TICK_S
    for partition in range(parts.partitions):
        await ctx["redis"].enqueue_job("shift", partition, _job_id=f"shift:{partition}:{tick}")


async def shift(ctx: dict[str, Any], partition: int) -> None:
    """Drain one partition for a while."""
    parts: Parts = ctx["parts"]
    turn = Shift(
        partition,
        ledger=parts.ledger,
        redis=parts.redis,
        recovery=parts.recovery,
        holder=parts.name,
    )
    try:
        await turn.run()
    except Unavailable as error:  # the next tick tries again
        log.warning("shift_ended", partition=partition, reason=str(error))


async def reconcile_all(ctx: dict[str, Any]) -> None:
    """Compare every event's counts, and now and then every user."""
    parts: Parts = ctx["parts"]
    full = time.gmtime().tm_min % FULL_EVERY_MINUTES == 0
    try:
        for event_id in await parts.ledger.event_ids():
            await parts.reconcile(event_id, full=full)
    except Unavailable as error:
        log.warning("reconcile_ended", reason=str(error))
