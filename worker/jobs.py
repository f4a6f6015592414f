"""What arq runs: the ticks that hand out shifts, the shifts, and the reconciliation."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from engine import metrics
from engine.errors import LedgerAway, RedisAway, Unavailable
from engine.log import get_logger
from engine.outbox import debts
from engine.reconcile import close_event, reconcile_event, suspects
from engine.tasks import stop
from worker.drain import Shift

if TYPE_CHECKING:
    from engine.recovery import Stores

TICK_S: Final = 2
FROZEN_S: Final = 8.0
FULL_EVERY_MINUTES: Final = 15
RETRY_S: Final = 0.2
MAX_NEWS: Final = 10_000
"""Notifications that wait: while Redis hangs, each takes its time-out."""

log = get_logger(__name__)


class Hands:
    """Follows changes by hand, as Postgres tells of them."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._news: asyncio.Queue[str] = asyncio.Queue(MAX_NEWS)

    async def follow(self) -> None:
        """Make Redis follow, until cancelled."""
        following = asyncio.create_task(self._follow())
        try:
            while True:
                try:
                    await self._stores.ledger.listen(self.hear)
                except LedgerAway as error:
                    log.warning("hands_not_heard", reason=str(error))
                await asyncio.sleep(RETRY_S)
        finally:
            await stop(following)

    def hear(self, news: str) -> None:
        """Keep a notification to be followed; in the place of too many, that all may differ."""
        if self._news.full():
            log.warning("hands_too_quick", news=news)
            while not self._news.empty():
                self._news.get_nowait()
            news = "all"
        self._news.put_nowait(news)

    async def _follow(self) -> None:
        while True:
            news = await self._news.get()
            try:
                await self.follow_once(news)
            except Unavailable as error:  # the cron job is the safety net
                log.warning("hand_not_followed", news=news, reason=str(error))
            except Exception:  # anybody can send a notification
                log.exception("hand_not_followed", news=news)

    async def follow_once(self, news: str) -> None:
        """Make Redis follow one notification (see ``Ledger.listen``)."""
        kind, _, rest = news.partition(" ")
        if kind == "event":
            event_id, _, users = rest.partition(" ")
            named = msgspec.json.decode(users, type=list[str]) if users else None
            await reconcile_event(self._stores, int(event_id), users=named)
        elif kind == "truncate":  # to load an event anew costs less than to compare every user
            for each in await self._stores.ledger.event_ids():
                await close_event(self._stores, each)
        elif kind == "all":
            async for each in suspects(self._stores):
                await reconcile_event(self._stores, each, full=False)


async def hand_out_shifts(ctx: dict[str, Any]) -> None:
    """At each tick, offer every partition to whoever is free, and free it from who is frozen."""
    stores: Stores = ctx["stores"]
    try:
        if pids := await stores.ledger.end_frozen(older_than_s=FROZEN_S):
            log.warning("frozen_sessions_ended", pids=pids)
        metrics.WAITING_LETTERS.set(await stores.ledger.letters_waiting())
    except LedgerAway as error:
        log.warning("shifts_handed_out_blindly", reason=str(error))
    tick = int(time.time()) // TICK_S
    for partition in range(stores.partitions):
        await ctx["redis"].enqueue_job("shift", partition, _job_id=f"shift:{partition}:{tick}")
    await measure(stores)


async def measure(stores: Stores) -> None:
    """Note what each partition owes the ledger, and that somebody is there to note it."""
    metrics.LAST_TICK.set_to_current_time()
    try:
        for partition, debt in enumerate(await debts(stores.redis, stores.partitions)):
            metrics.DEPTH.labels(partition).set(debt.depth)
            metrics.LAG_SECONDS.labels(partition).set(debt.lag_seconds)
    except RedisAway as error:
        log.warning("outboxes_not_measured", reason=str(error))


async def shift(ctx: dict[str, Any], partition: int) -> None:
    """Drain one partition for a while."""
    try:
        await Shift(
            ctx["stores"], partition, ctx["brakes"][partition], ctx["gate"], holder=ctx["name"]
        ).run()
    except Unavailable as error:  # the next tick tries again
        log.warning("shift_ended", partition=partition, reason=str(error))


async def reconcile_all(ctx: dict[str, Any]) -> None:
    """Compare every event's counts, and now and then every user."""
    stores: Stores = ctx["stores"]
    try:
        if time.gmtime().tm_min % FULL_EVERY_MINUTES:
            async for event_id in suspects(stores):
                await reconcile_event(stores, event_id, full=False)
            return
        event_ids = await stores.ledger.event_ids()
        random.shuffle(event_ids)  # if there is not time for all, it is not always the same ones
        for event_id in event_ids:
            await reconcile_event(stores, event_id)
    except Unavailable as error:
        log.warning("reconcile_ended", reason=str(error))
