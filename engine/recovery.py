"""Recovery: open a new epoch of a partition whose Redis lost, or may have lost, state.

Whoever sees ``Fenced`` or ``Gap`` comes here. Postgres gives the epoch out by compare-and-set, so
of many who see it one recovers, and the others wait for him. If he dies, his recovery grows stale
and the next one takes a later epoch; his own steps then find themselves fenced. The first start of
an empty system is the same procedure.

Afterwards all events are cold. Nothing of Redis's old state but the surviving outbox is believed.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from engine import keys, metrics
from engine.drain import Drain
from engine.errors import REDIS_ERRORS, Fault, LedgerAway, Misconfigured, RedisAway, Superseded
from engine.ledger import Ledger
from engine.log import get_logger
from engine.model import MAX_EPOCH
from engine.scripts import Scripts, evaluate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from engine.ledger import PartitionRow
    from engine.settings import Settings

POLL_S: Final = 0.02
HEARTBEAT_S: Final = 1.0
FIRST_EPOCH: Final = 1
REDIS_7: Final = (7, 0)

log = get_logger(__name__)


def redis_client(settings: Settings, **options: Any) -> Redis:
    """A client that never sends a command twice, and gives up in bounded time."""
    timeout_s = settings.redis_timeout_ms / 1000
    client: Redis = Redis.from_url(
        settings.redis_dsn,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        **options,
    )
    return client


class Stores(NamedTuple):
    """Both stores, for who works on partitions and not for callers."""

    ledger: Ledger
    redis: Redis
    recovery: Recovery
    partitions: int


@asynccontextmanager
async def connected(settings: Settings, *, connections: int) -> AsyncIterator[Stores]:
    """Connect to both stores, when they are first used, and let them go at the end."""
    ledger, redis = Ledger(settings.postgres_dsn, connections=connections), redis_client(settings)
    try:
        yield Stores(ledger, redis, Recovery(ledger, settings), settings.partitions)
    finally:
        await redis.aclose()
        await ledger.close()


async def check_servers(ledger: Ledger, redis: Redis, settings: Settings) -> list[PartitionRow]:
    """See that both servers can keep what onsale promises; answers the partitions.

    Raises:
        Misconfigured: they cannot; the message says what to change.
        LedgerAway, RedisAway: they do not answer.
    """
    rows = await ledger.partitions()
    if len(rows) != settings.partitions:
        raise Misconfigured(
            f"PARTITIONS is {settings.partitions}, but the ledger was made with {len(rows)}: "
            f"set PARTITIONS={len(rows)}"
        )
    try:
        info = await redis.info()
    except REDIS_ERRORS as error:
        raise RedisAway(f"Redis does not answer: {error}") from error
    version = str(info["redis_version"])
    if tuple(map(int, version.split(".")[:2])) < REDIS_7:
        raise Misconfigured(f"Redis is {version}: 7.0 or newer is needed")
    if info["maxmemory_policy"] != "noeviction":
        raise Misconfigured(
            f"Redis evicts keys (maxmemory-policy {info['maxmemory_policy']}): "
            "run CONFIG SET maxmemory-policy noeviction"
        )
    if not info["aof_enabled"] and not settings.allow_volatile_redis:
        raise Misconfigured(
            "Redis keeps no append-only file: run CONFIG SET appendonly yes, or set "
            "ALLOW_VOLATILE_REDIS=1 and accept that a restart of Redis loses pending bookings"
        )
    return rows


class Recovery:
    """Opens new epochs."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._settings = settings

    async def opened(self, partition: int) -> int:
        """The epoch of a partition, once no recovery of it is under way.

        Raises:
            LedgerAway, RedisAway: it cannot be known, or done, now.
        """
        row = await self._ledger.partition(partition)
        return await self.reopen(partition, row.epoch - 1) if row.recovering else row.epoch

    async def reopen(self, partition: int, epoch: int) -> int:
        """See a partition open at a later epoch than the one that was fenced; answers it.

        Raises:
            LedgerAway, RedisAway: it cannot be done now.
        """
        while True:
            row = await self._ledger.partition(partition)
            if row.epoch > epoch and not row.recovering:
                return row.epoch
            if not row.recovering or row.stale:
                opened = await self._once(partition, row.epoch)
                if opened:
                    return opened
            await asyncio.sleep(POLL_S)

    async def _once(self, partition: int, epoch: int) -> int | None:
        """Recover, unless somebody else does; answers the new epoch."""
        if epoch >= MAX_EPOCH:
            raise Fault(f"partition {partition} has used up its epochs")
        try:
            # One connection for all of it: if Redis restarts meanwhile, the recovery fails.
            async with redis_client(self._settings, single_connection_client=True) as redis:
                await redis.ping()  # an epoch is not spent on a Redis that is away
                new = await self._ledger.advance_epoch(partition, epoch)
                if new is None:
                    return None
                await self._open_or_give_up(partition, new, redis)
        except Superseded as error:
            log.warning("recovery_superseded", partition=partition, reason=str(error))
            return None
        except REDIS_ERRORS as error:
            raise RedisAway(f"partition {partition} cannot be recovered: {error}") from error
        metrics.RECOVERIES.inc()
        say = log.debug if new == FIRST_EPOCH else log.warning
        say("recovered", partition=partition, epoch=new)
        return new

    async def _open_or_give_up(self, partition: int, epoch: int, redis: Redis) -> None:
        """Recover; if it fails, let the next one try soon instead of waiting for us."""
        try:
            await self._open(partition, epoch, redis)
        except BaseException:
            with suppress(LedgerAway):
                await self._ledger.give_up_recovering(partition, epoch)
            raise

    async def _open(self, partition: int, epoch: int, redis: Redis) -> None:
        log_key, outbox = keys.log(partition), keys.outbox(partition)
        if await evaluate(redis, "advance", 1, log_key, epoch) == b"newer":
            raise Superseded(f"Redis is not older than epoch {epoch}")

        mark = (await self._ledger.partition(partition)).mark
        if await redis.type(outbox) in (b"stream", b"none"):
            drain = Drain(partition, ledger=self._ledger, redis=redis)
            mark = await drain.survivors(epoch, mark)
        else:
            log.error("outbox_is_no_stream", partition=partition)  # `open` begins it anew

        if await evaluate(redis, "open", 2, log_key, outbox, epoch) == b"newer":
            raise Superseded(f"Redis is not at epoch {epoch}")
        await self._rewrite_aof(partition, epoch, redis)
        await Scripts(partition, epoch).load(redis)

        async with self._ledger.locked(partition) as locked:
            if locked.row.epoch != epoch:
                raise Superseded(f"the ledger is at epoch {locked.row.epoch}")
            await locked.open_epoch(partition, epoch, mark)

    async def _rewrite_aof(self, partition: int, epoch: int, redis: Redis) -> None:
        """Make Redis write its append-only file anew, once after each of its starts.

        Redis 7.0 whose file was cut inside a script's MULTI block leaves the cut half in it, and
        replays half a script at the *next* restart, also with ``appendfsync always``.
        """
        heartbeat_s = asyncio.get_running_loop().time()
        while True:
            info = await redis.info("persistence")
            rewritten = info["aof_last_rewrite_time_sec"] != -1
            if not info["aof_enabled"] or (rewritten and info["aof_last_bgrewrite_status"] == "ok"):
                return
            if not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]:
                try:
                    await redis.bgrewriteaof()
                except ResponseError as error:  # another recovery was quicker, or a save runs
                    log.debug("aof_rewrite_waits", partition=partition, reason=str(error))
            now_s = asyncio.get_running_loop().time()
            if now_s - heartbeat_s > HEARTBEAT_S:
                heartbeat_s = now_s
                if not await self._ledger.keep_recovering(partition, epoch):
                    raise Superseded(f"a later recovery than epoch {epoch} began")
            await asyncio.sleep(POLL_S)
