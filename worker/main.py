"""The worker process: an arq worker, started again by itself when Redis was away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from typing import Any, ClassVar, Final

import orjson
import uvloop
from arq.connections import RedisSettings
from arq.cron import cron
from arq.worker import Worker, create_worker
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from engine.errors import Misconfigured, Unavailable
from engine.ledger import Ledger
from engine.log import configure, get_logger
from engine.recovery import Recovery, check_servers, redis_client
from engine.settings import Settings
from worker.jobs import TICK_S, Parts, hand_out_shifts, reconcile_all, shift

JOB_TIMEOUT_S: Final = 20
RETRY_S: Final = 0.5
EXIT_MISCONFIGURED: Final = 3

log = get_logger(__name__)


def serialize(job: dict[str, Any]) -> bytes:
    """Jobs as JSON, so that nobody who can write to Redis can run code here."""
    return orjson.dumps(job, default=repr)


async def on_startup(ctx: dict[str, Any]) -> None:
    """Check the servers, and begin to listen."""
    settings: Settings = ctx["settings"]
    # Each shift drains in one connection at a time; the rest is for shifts that pass on.
    ledger = Ledger(settings.postgres_dsn, connections=8)
    redis = redis_client(settings)
    while True:
        try:
            await check_servers(ledger, redis, settings)
            break
        except Unavailable as error:
            log.warning("not_ready", reason=str(error))
            await asyncio.sleep(RETRY_S)
    parts = Parts(
        ledger=ledger,
        redis=redis,
        recovery=Recovery(ledger, settings),
        partitions=settings.partitions,
        name=f"{socket.gethostname()}:{os.getpid()}",
    )
    ctx["parts"] = parts
    ctx["listener"] = asyncio.create_task(parts.hear_hands())
    log.info("worker_ready", partitions=settings.partitions)


async def on_shutdown(ctx: dict[str, Any]) -> None:
    """Give everything back."""
    if "parts" not in ctx:
        return
    ctx["listener"].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ctx["listener"]
    parts: Parts = ctx["parts"]
    await parts.redis.aclose()
    await parts.ledger.close()


class WorkerSettings:
    """What arq asks for."""

    functions: ClassVar = [shift]
    cron_jobs: ClassVar = [
        cron(hand_out_shifts, second=set(range(0, 60, TICK_S)), run_at_startup=True),
        cron(reconcile_all, second=30, timeout=JOB_TIMEOUT_S * 3),
    ]
    on_startup = on_startup
    on_shutdown = on_shutdown
    queue_name = "onsale:jobs"
    job_serializer = serialize
    job_deserializer = orjson.loads
    job_timeout = JOB_TIMEOUT_S
    keep_result = 0
    poll_delay = 0.2
    health_check_interval = 10
    log_results = False
    max_tries = 2


def redis_settings(settings: Settings) -> RedisSettings:
    """arq's own connections: they wait for a Redis that restarts instead of ending the worker."""
    options = RedisSettings.from_dsn(settings.redis_dsn)
    options.retry = Retry(ExponentialBackoff(cap=RETRY_S, base=0.05), retries=20)
    options.retry_on_error = [RedisConnectionError, RedisTimeoutError]
    options.conn_retries = 0
    return options


def make_worker(settings: Settings) -> Worker:
    """One arq worker; each partition can have a shift here, and one that is passing on."""
    return create_worker(
        WorkerSettings,
        redis_settings=redis_settings(settings),
        max_jobs=settings.partitions * 4 + 4,
        ctx={"settings": settings},
    )


def main() -> None:
    """Work until SIGTERM."""
    settings = Settings()
    configure(settings)
    asyncio.set_event_loop(uvloop.new_event_loop())
    while True:
        worker = make_worker(settings)
        try:
            worker.run()
        except Misconfigured as error:
            print(f"onsale worker: {error}", file=sys.stderr)  # noqa: T201
            sys.exit(EXIT_MISCONFIGURED)
        except (RedisError, OSError) as error:
            log.warning("worker_restarts", reason=str(error))
            time.sleep(RETRY_S)
        else:
            return
