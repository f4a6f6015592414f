"""The worker process: an arq worker, started again by itself when Redis was away."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

import orjson
import uvloop
from arq.connections import ArqRedis
from arq.cron import cron
from arq.worker import Worker, create_worker
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from engine import keys, metrics, tracing
from engine.drain import Brake
from engine.errors import REDIS_ERRORS, Misconfigured, Unavailable
from engine.gate import Gate
from engine.log import configure, get_logger
from engine.recovery import check_servers, connected, redis_client
from engine.settings import Settings
from engine.tasks import stop
from worker.jobs import TICK_S, Hands, hand_out_shifts, reconcile_all, shift

if TYPE_CHECKING:
    from engine.recovery import Stores

JOB_TIMEOUT_S: Final = 20
RETRY_S: Final = 0.5
STOP_S: Final = 4.0
EXIT_MISCONFIGURED: Final = 3

log = get_logger(__name__)


def serialize(job: dict[str, Any]) -> bytes:
    """Jobs as JSON, so that nobody who can write to Redis can run code here."""
    return orjson.dumps(job, default=repr)


async def on_startup(ctx: dict[str, Any]) -> None:
    """Check the servers, and begin to listen."""
    settings: Settings = ctx["settings"]
    stores: Stores = await ctx["exit"].enter_async_context(connected(settings, connections=8))
    while True:
        try:
            await check_servers(stores.ledger, stores.redis, settings)
            break
        except Unavailable as error:
            log.warning("not_ready", reason=str(error))
            await asyncio.sleep(RETRY_S)
    ctx["stores"] = stores
    ctx["gate"] = Gate()
    ctx["brakes"] = [Brake() for _ in range(stores.partitions)]
    ctx["name"] = f"{socket.gethostname()}:{os.getpid()}"
    ctx["hands"] = asyncio.create_task(Hands(stores).follow())
    log.info("worker_ready", partitions=settings.partitions)


async def on_shutdown(ctx: dict[str, Any]) -> None:
    """Give everything back."""
    if "hands" in ctx:
        await stop(ctx["hands"])
    await ctx["exit"].aclose()


class WorkerSettings:
    """What arq asks for."""

    functions: ClassVar = [shift]
    cron_jobs: ClassVar = [
        cron(hand_out_shifts, second=set(range(0, 60, TICK_S)), run_at_startup=True),
        cron(reconcile_all, second=30, timeout=JOB_TIMEOUT_S * 3),
    ]
    on_startup = on_startup
    on_shutdown = on_shutdown
    queue_name = keys.JOBS
    health_check_key = keys.worker(socket.gethostname())
    job_serializer = serialize
    job_deserializer = orjson.loads
    job_timeout = JOB_TIMEOUT_S
    keep_result = 0
    poll_delay = 0.5
    health_check_interval = 10
    log_results = False
    max_tries = 2


def arq_redis(settings: Settings) -> ArqRedis:
    """What arq uses of Redis. Commands are tried again for a while: arq ends at the first error."""
    timeout_s = settings.redis_timeout_ms / 1000
    pool = ConnectionPool.from_url(
        settings.redis_dsn,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(ExponentialBackoff(cap=RETRY_S, base=0.05), retries=5),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )
    return ArqRedis(
        pool_or_conn=pool,
        job_serializer=WorkerSettings.job_serializer,
        job_deserializer=WorkerSettings.job_deserializer,
        default_queue_name=WorkerSettings.queue_name,
    )


def make_worker(settings: Settings) -> Worker:
    """One arq worker; each partition can have a shift here, and one that is passing on."""
    return create_worker(
        dict(vars(WorkerSettings)),
        redis_pool=arq_redis(settings),
        max_jobs=settings.partitions * 4 + 4,
        ctx={"settings": settings, "exit": AsyncExitStack()},
    )


async def is_healthy(settings: Settings) -> bool:
    """Whether a worker of this host has said in the last seconds that it is alive."""
    try:
        async with redis_client(settings) as redis:
            return bool(await redis.exists(WorkerSettings.health_check_key))
    except REDIS_ERRORS:
        return False


def main() -> None:
    """Work until SIGTERM, through whatever happens to Redis; or ``--check`` whether one does."""
    try:
        settings = Settings.load()
        if sys.argv[1:] == ["--check"]:
            sys.exit(0 if asyncio.run(is_healthy(settings)) else 1)
        configure(settings)
        settings.check_metrics_exposure()
        if settings.metrics_port:
            metrics.serve(settings.host, settings.metrics_port)
        flush = tracing.start("onsale-worker") if settings.otel else None
        uvloop.run(work(settings))
        if flush:
            flush()
    except Misconfigured as error:
        refuse(error)


async def work(settings: Settings) -> None:
    """Run one arq worker after another until a signal comes.

    In one run of the loop: between two runs a signal would be lost.
    """
    stopped = asyncio.Event()

    def stop(_: object) -> None:
        stopped.set()
        asyncio.get_running_loop().call_later(STOP_S, leave)

    while not stopped.is_set():
        worker = make_worker(settings)
        worker.on_stop = stop
        try:
            await run_once(worker)
        except REDIS_ERRORS as error:
            log.warning("worker_restarts", reason=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), RETRY_S)


async def run_once(worker: Worker) -> None:
    """Run an arq worker until a signal comes, or it fails."""
    try:
        await worker.async_run()
    except asyncio.CancelledError:  # arq's way to end
        pass
    finally:
        await worker.close()


def refuse(error: Misconfigured) -> NoReturn:
    """End, with the reason in one line."""
    print(f"onsale worker: {error}", file=sys.stderr)  # noqa: T201
    sys.exit(EXIT_MISCONFIGURED)


def leave() -> None:
    """End although a server does not answer: the transaction under way had its time."""
    log.warning("worker_leaves", reason="a server does not answer")
    os._exit(0)
