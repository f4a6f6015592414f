"""The worker of ``arq_job``: jobs side by side, each one statement."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import orjson
import uvloop
from arq.worker import Worker

from bench.contenders.arq_job import QUEUE, arq_redis, book
from bench.contenders.postgres import TABLES
from bench.contenders.postgres_statement import Statement

SCHEMA: Final = TABLES
JOBS: Final = 64


async def connect(ctx: dict[str, Any]) -> None:
    """Connect to Postgres."""
    ctx["statement"] = Statement()
    await ctx["statement"].open()


async def work() -> None:
    """Work until told to end."""
    worker = Worker(
        [book],
        redis_pool=arq_redis(),
        queue_name=QUEUE,
        on_startup=connect,
        max_jobs=JOBS,
        poll_delay=0.01,
        keep_result=0,
        job_serializer=orjson.dumps,
        job_deserializer=orjson.loads,
        log_results=False,
    )
    with suppress(asyncio.CancelledError):  # arq's way to end
        await worker.async_run()


if __name__ == "__main__":
    uvloop.run(work())
