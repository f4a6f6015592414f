"""One arq job a booking: the request is queued at once, and a worker books it in Postgres.

The weakest of promises: 202 says that somebody will see to it. Who got a seat is found out later.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import orjson
from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from bench.contenders.face import Away, Face, Peer, Verdict, now_ms
from bench.contenders.serve import serve
from engine.model import Word

if TYPE_CHECKING:
    from typing import Any

CONNECTIONS: Final = 1000
QUEUE: Final = "arq-job:queue"


def arq_redis() -> ArqRedis:
    """What arq uses of Redis, on both sides of the queue."""
    pool = ConnectionPool.from_url(os.environ["REDIS_URL"], max_connections=CONNECTIONS)
    return ArqRedis(
        pool_or_conn=pool,
        job_serializer=orjson.dumps,
        job_deserializer=orjson.loads,
        default_queue_name=QUEUE,
    )


class ArqJob(Peer):
    """One job a request."""

    granted = 202

    async def open(self) -> None:
        """Connect."""
        self._redis = arq_redis()
        self._count = 0

    async def close(self) -> None:
        """Disconnect."""
        await self._redis.aclose()

    async def reserve(self, event_id: int, user_id: str) -> Verdict:
        """Queue the job."""
        self._count += 1
        try:
            await self._redis.enqueue_job("book", event_id, user_id)
        except (RedisError, OSError) as error:
            raise Away from error
        return Verdict(Word.RESERVED, self._count, now_ms())


async def book(ctx: dict[str, Any], event_id: int, user_id: str) -> None:
    """The job: one statement."""
    await ctx["statement"].reserve(event_id, user_id)


if __name__ == "__main__":
    serve(Face(ArqJob()))
